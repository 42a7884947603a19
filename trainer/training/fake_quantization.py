"""A network that rounds as its int8 graph does, by torchao's fake quantisation: gradients pass through.

torchao's flow for exported programs asks a `Quantizer` where rounding goes; ours tells it what calibration
wrote. Tensors go by the names that `torch.export` gives them, which are the ONNX graph's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import RecurrentState
from edge.release.manifest import Form
from edge.release.quantization import QdqPlacement, QuantizationRecord
from trainer.models.batch_norm_folding import fold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import Student

WEIGHTED_OPERATORS = {"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "convolution"}
"""Operators of torch whose second argument is a weight."""


def fake_quantize(
    student: Student, form: Form, batch: int, told: QuantizationRecord, engine: str
) -> fx.GraphModule:
    """Return a form of a student's network, batch norms folded, rounded at each of the engine's places.

    Scales of weights follow the weights; those of activations stay as calibration found them. It takes and
    gives what the form does, in batches of `batch`. Parameters are named as the folded form's.

    Raises:
        InputError: torchao is not installed; the places are not this network's.
    """
    pt2e, prepare, quantizer = _torchao()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fold_batch_norm(forms_of(student).modules[form])
        graph: Any = torch.export.export(module, _arguments(student, form, batch)).module()
        prepared: fx.GraphModule = prepare(graph, _make_quantizer(pt2e, quantizer, told, told.places[engine]))
    pt2e.allow_exported_model_train_eval(prepared)
    return prepared


@contextmanager
def rounding_disabled(network: fx.GraphModule) -> Iterator[None]:
    """Let a fake-quantised network compute without rounding."""
    rounding: list[Any] = [module for module in network.modules() if hasattr(module, "enable_fake_quant")]
    for module in rounding:
        module.enable_fake_quant(False)
    try:
        yield
    finally:
        for module in rounding:
            module.enable_fake_quant(True)


def run_form(module: nn.Module, student: Student, form: Form, window: Tensor) -> Tensor:
    """Return the maps (N, 1 or more, H, W) of windows (N, 3, T, H, W), as they come on board.

    `module`: the form, as it is or fake-quantised. A stream is stepped through the window.
    """
    forms = forms_of(student)
    if form == "clip":
        clip: Tensor = module(window)
        return clip
    frames = window.unbind(2)
    if len(forms.inputs(form)) == 2:
        ends = (frames[0], frames[-1]) if student.settings.delay_frames else (frames[-1], frames[0])
        pair: Tensor = module(*ends)
        return pair
    starts = {
        state.input: torch.full((len(window), *state.shape[1:]), state.start, device=window.device)
        for state in forms.states
    }
    carried = RecurrentState(forms.states, starts)
    for frame in frames:
        saliency, *given = module(frame, *carried.feed().values())
        carried.update(dict(zip(carried.outputs, given, strict=True)))
    last: Tensor = saliency
    return last


def _arguments(student: Student, form: Form, batch: int) -> tuple[Tensor, ...]:
    forms, size = forms_of(student), student.settings.preprocessing()
    clip = (forms.window,) if form == "clip" else ()
    frames = [torch.zeros(batch, 3, *clip, size.height, size.width) for _ in forms.inputs(form)]
    states = forms.states if form == "stream" else ()
    return (*frames, *(torch.full((batch, *state.shape[1:]), state.start) for state in states))


def _make_quantizer(pt2e: Any, quantizer: Any, told: QuantizationRecord, places: QdqPlacement) -> Any:
    """Return a `Quantizer` of torchao that marks our places."""

    class Placed(quantizer.Quantizer):  # type: ignore[misc]
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            """Mark what gives each tensor, and what takes each weight."""
            tensors, takers = _nodes_by_tensor(model, told), _weight_consumers(model)
            missing = [name for name in places.activations if name not in tensors]
            missing += [name for name in places.weights if name not in takers]
            if missing:
                raise InputError(
                    f"the release rounds {missing[0]}, which the student's network lacks; expected the "
                    "release of this very student: export it again"
                )
            marks: dict[fx.Node, dict[str, Any]] = {}
            for name, rounding in places.activations.items():
                signed = rounding.least < 0
                marks.setdefault(tensors[name], {})["output_qspec"] = quantizer.FixedQParamsQuantizationSpec(
                    dtype=torch.int8 if signed else torch.uint8,
                    scale=rounding.scale,
                    zero_point=rounding.zero_point,
                    quant_min=rounding.least,
                    quant_max=rounding.most,
                    qscheme=torch.per_tensor_affine,
                )
            for name, axis in places.weights.items():
                for node in takers[name]:
                    marks.setdefault(node, {})["input_qspec_map"] = {node.args[1]: _of_weights(axis)}
            for node, mark in marks.items():
                node.meta["quantization_annotation"] = quantizer.QuantizationAnnotation(
                    **mark, _annotated=True
                )
            return model

        def validate(self, model: fx.GraphModule) -> None:
            """Nothing is left to check."""

    def _of_weights(axis: int) -> Any:
        observer = pt2e.MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0, eps=1e-7)
        return quantizer.QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=pt2e.FakeQuantize.with_args(observer=observer),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=axis,
        )

    return Placed()


def _nodes_by_tensor(model: fx.GraphModule, told: QuantizationRecord) -> dict[str, fx.Node]:
    """Return the nodes of a graph by its tensors' names in ONNX, where inputs and outputs are named anew."""
    nodes = {node.name: node for node in model.graph.nodes if node.op == "call_function"}
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in model.graph.nodes if node.op == "output")
    given = output.args[0] if isinstance(output.args[0], (tuple, list)) else output.args
    return {
        **nodes,
        **dict(zip(told.inputs, inputs, strict=False)),
        **{name: node for name, node in zip(told.outputs, given, strict=False) if isinstance(node, fx.Node)},
    }


def _weight_consumers(model: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Return the convolutions that take each weight."""
    found: dict[str, list[fx.Node]] = {}
    for node in model.graph.nodes:
        packet = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if (
            packet in WEIGHTED_OPERATORS
            and isinstance(node.args[1], fx.Node)
            and node.args[1].op == "get_attr"
        ):
            found.setdefault(str(node.args[1].target), []).append(node)
    return found


def _torchao() -> tuple[Any, Any, Any]:
    """Import torchao, which speaks of GPU kernels that it does not find."""
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import pt2e
            from torchao.quantization.pt2e import quantize_pt2e, quantizer
    except ImportError as error:
        raise InputError(f"--qat needs {error.name or 'torchao'}: pip install 'aerogaze[train]'") from None
    finally:
        logging.disable(logging.NOTSET)
    return pt2e, quantize_pt2e.prepare_qat_pt2e, quantizer
