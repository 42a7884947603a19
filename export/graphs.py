"""A student's forms as fp32 ONNX graphs, batch norm folded."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge.errors import InputError
from edge.release import Form
from trainer.models.forms import forms_of
from trainer.models.skd import FEATURES, SpatiotemporalNetwork
from trainer.models.student import Student

OPSET = 20
"""Q/DQ on float16 needs 19; ONNX Runtime's quantiser refuses 21 and above."""
SALIENCY = "saliency"


def folded(module: nn.Module) -> nn.Module:
    """Return a copy whose batch norms and differences of features are folded into the convolutions."""
    module = copy.deepcopy(module).eval()
    for block in [m for m in module.modules() if isinstance(m, nn.Sequential)]:
        for index, norm in enumerate(block):
            if not isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
                continue
            convolution = block[index - 1]
            assert isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d))
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            block[index - 1] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
            block[index] = nn.Identity()
    for parent in list(module.modules()):
        for name, network in parent.named_children():
            if isinstance(network, SpatiotemporalNetwork):
                setattr(parent, name, _ChangeFolded(network))
    return module


class _ChangeFolded(SpatiotemporalNetwork):
    """SKD's network with the difference of features in a convolution: A f + B (f - g) = (A + B) f - B g."""

    def __init__(self, network: SpatiotemporalNetwork) -> None:
        """Take the parts of a network over, which is of no use afterwards."""
        super().__init__()
        self.trunk, self.decoder = network.trunk, network.decoder
        self.spatial, self.temporal = network.spatial, network.temporal
        first = self.temporal.get_submodule("0.0")
        assert isinstance(first, nn.Conv2d)
        first.weight.data[:, :FEATURES] += first.weight.data[:, FEATURES:]
        first.weight.data[:, FEATURES:].neg_()

    def fuse(self, features: Tensor, other: Tensor) -> Tensor:
        """Return the raw map."""
        temporal = self.temporal(torch.cat([features, other], dim=1))
        raw: Tensor = self.decoder(torch.cat([self.spatial(features), temporal], dim=1))
        return raw


def to_onnx(student: Student, form: Form, batch: int | None) -> onnx.ModelProto:
    """Return the fp32 graph. `batch`: None leaves it dynamic; a stream has its states' batch, 1.

    Raises:
        InputError: the student has no such form.
    """
    forms = forms_of(student)
    if form not in forms.modules:
        raise InputError(
            f"student {student.name} has no {form} form; it has {', '.join(forms.modules)}: "
            "leave --form out, or choose one of these"
        )
    size = student.settings.preprocessing()
    frames, states = forms.inputs(form), forms.states if form == "stream" else ()
    # A tensor each: the exporter would take one tensor given twice for one input.
    clip = (forms.window,) if form == "clip" else ()
    arguments = [torch.zeros(batch or 2, 3, *clip, size.height, size.width) for _ in frames]
    arguments += [torch.full(state.shape, state.start) for state in states]
    return traced(
        folded(forms.modules[form]),
        tuple(arguments),
        [*frames, *(state.input for state in states)],
        [SALIENCY, *dict.fromkeys(state.output for state in states)],
        dynamic=batch is None,
    )


def traced(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: bool = False,
) -> onnx.ModelProto:
    """Return a module's graph for arguments of these shapes; `dynamic`: of any batch."""
    axes = tuple({0: torch.export.Dim("batch")} for _ in arguments) if dynamic else None
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                arguments,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_shapes=axes,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:  # where in the code each comes from: a quarter of a small graph's bytes
        node.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    return model
