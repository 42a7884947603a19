"""Fake quantization: a network that rounds like its int8 graph, by torchao, with gradients passing through.

torchao's flow for exported programs asks a `Quantizer` where to round. Ours answers with the placement that
calibration has stored. Tensors have the names that `torch.export` gives them, as in the ONNX graph.
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
from edge.release.quantization import QdqPlacement, QuantizationRecord
from edge.release.release import Form
from trainer.models.batch_norm_folding import fold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import Student

WEIGHTED_OPERATORS = {"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "convolution"}
"""Operators of torch whose second argument is a weight."""


def fake_quantize(
    student: Student, form: Form, batch: int, record: QuantizationRecord, engine: str
) -> fx.GraphModule:
    """Return a form of a student's network, batch norms folded, with fake quantization of an engine.

    Scales of weights follow the weights, and those of activations stay as calibrated. Inputs and outputs are
    those of the form. Parameters have the names of the folded form.

    Args:
        student: Student whose network is used; it does not change.
        form: Form to quantize.
        batch: Batch size.
        record: Q/DQ placements of the form.
        engine: Engine whose placement is used.

    Raises:
        InputError: torchao is not installed, or the placement belongs to another network.
    """
    pt2e, prepare, quantizer = _import_torchao()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fold_batch_norm(forms_of(student).modules[form])
        graph: Any = torch.export.export(module, _example_inputs(student, form, batch)).module()
        placement = record.places[engine]
        prepared: fx.GraphModule = prepare(graph, _make_quantizer(pt2e, quantizer, record, placement))
    pt2e.allow_exported_model_train_eval(prepared)
    return prepared


@contextmanager
def rounding_disabled(network: fx.GraphModule) -> Iterator[None]:
    """Disable rounding in a network with fake quantization."""
    modules: list[Any] = [module for module in network.modules() if hasattr(module, "enable_fake_quant")]
    for module in modules:
        module.enable_fake_quant(False)
    try:
        yield
    finally:
        for module in modules:
            module.enable_fake_quant(True)


def run_form(module: nn.Module, student: Student, form: Form, window: Tensor) -> Tensor:
    """Return the maps (N, 1 or more, H, W) of windows (N, 3 or 6, T, H, W), computed as on the device.

    Args:
        module: Module of the form, with or without fake quantization. A stream is run step by step.
        student: Student of the form.
        form: Form to run.
        window: Windows of frames, as by `Preprocessing.stack_window`.
    """
    forms = forms_of(student)
    if form == "clip":
        clip_maps: Tensor = module(window)
        return clip_maps
    frames = window.unbind(2)
    if form == "pair" and not forms.aligned:
        ends = (frames[0], frames[-1]) if student.settings.delay_frames else (frames[-1], frames[0])
        pair_maps: Tensor = module(*ends)
        return pair_maps
    starts = {
        state.input: torch.full((len(window), *state.shape[1:]), state.start, device=window.device)
        for state in forms.states
    }
    recurrent = RecurrentState(forms.states, starts)
    for frame in frames if forms.states else frames[-1:]:
        results = module(*torch.split(frame, 3, dim=1), *recurrent.feed().values())
        saliency, *states = results if forms.states else (results,)
        recurrent.update(dict(zip(recurrent.outputs, states, strict=True)))
    last: Tensor = saliency
    return last


def _example_inputs(student: Student, form: Form, batch: int) -> tuple[Tensor, ...]:
    forms, size = forms_of(student), student.settings.preprocessing()
    clip = (forms.window,) if form == "clip" else ()
    frames = [torch.zeros(batch, 3, *clip, size.height, size.width) for _ in forms.inputs(form)]
    states = forms.states if form == "stream" else ()
    return (*frames, *(torch.full((batch, *state.shape[1:]), state.start) for state in states))


def _make_quantizer(pt2e: Any, quantizer: Any, record: QuantizationRecord, placement: QdqPlacement) -> Any:
    """Return a torchao `Quantizer` that annotates the nodes of a placement."""

    class PlacementQuantizer(quantizer.Quantizer):  # type: ignore[misc]
        def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
            """Annotate the producers of activations and the consumers of weights."""
            producers, consumers = _nodes_by_tensor(model, record), _weight_consumers(model)
            missing = [name for name in placement.activations if name not in producers]
            missing += [name for name in placement.weights if name not in consumers]
            if missing:
                raise InputError(
                    f"the release rounds {missing[0]}, which the student's network lacks; expected the "
                    "release of this student: export it again"
                )
            annotations: dict[fx.Node, dict[str, Any]] = {}
            for name, params in placement.activations.items():
                annotations.setdefault(producers[name], {})["output_qspec"] = _activation_spec(params)
            for name, axis in placement.weights.items():
                for node in consumers[name]:
                    annotations.setdefault(node, {})["input_qspec_map"] = {node.args[1]: _weight_spec(axis)}
            for node, annotation in annotations.items():
                node.meta["quantization_annotation"] = quantizer.QuantizationAnnotation(
                    **annotation, _annotated=True
                )
            return model

        def validate(self, model: fx.GraphModule) -> None:
            """Accept every model, because `annotate` has checked it."""

    def _activation_spec(params: Any) -> Any:
        return quantizer.FixedQParamsQuantizationSpec(
            dtype=torch.int8 if params.least < 0 else torch.uint8,
            scale=params.scale,
            zero_point=params.zero_point,
            quant_min=params.least,
            quant_max=params.most,
            qscheme=torch.per_tensor_affine,
        )

    def _weight_spec(axis: int) -> Any:
        observer = pt2e.MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0, eps=1e-7)
        return quantizer.QuantizationSpec(
            dtype=torch.int8,
            observer_or_fake_quant_ctr=pt2e.FakeQuantize.with_args(observer=observer),
            quant_min=-127,
            quant_max=127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=axis,
        )

    return PlacementQuantizer()


def _nodes_by_tensor(model: fx.GraphModule, record: QuantizationRecord) -> dict[str, fx.Node]:
    """Return the nodes of a graph by the names of their tensors in ONNX.

    Only inputs and outputs have other names there, which the record lists.
    """
    nodes = {node.name: node for node in model.graph.nodes if node.op == "call_function"}
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in model.graph.nodes if node.op == "output")
    results = output.args[0] if isinstance(output.args[0], (tuple, list)) else output.args
    outputs = {
        name: node for name, node in zip(record.outputs, results, strict=False) if isinstance(node, fx.Node)
    }
    return {**nodes, **dict(zip(record.inputs, inputs, strict=False)), **outputs}


def _weight_consumers(model: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Return the convolutions that consume each weight."""
    consumers: dict[str, list[fx.Node]] = {}
    for node in model.graph.nodes:
        operator = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if operator not in WEIGHTED_OPERATORS:
            continue
        weight = node.args[1]
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            consumers.setdefault(str(weight.target), []).append(node)
    return consumers


def _import_torchao() -> tuple[Any, Any, Any]:
    """Import torchao without its warnings about missing GPU kernels.

    Raises:
        InputError: torchao is not installed.
    """
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
