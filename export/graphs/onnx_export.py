"""A student's forms as fp32 ONNX graphs, batch norm folded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from edge.release.manifest import Form
from trainer.models.folded import folded
from trainer.models.forms import forms_of
from trainer.models.student import Student

OPSET = 20
"""Q/DQ on float16 needs 19; ONNX Runtime's quantiser refuses 21 and above."""
SALIENCY = "saliency"


def export_onnx(student: Student, form: Form, batch: int | None) -> onnx.ModelProto:
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
    return trace_onnx(
        folded(forms.modules[form]),
        tuple(arguments),
        [*frames, *(state.input for state in states)],
        [SALIENCY, *dict.fromkeys(state.output for state in states)],
        dynamic=batch is None,
    )


def trace_onnx(
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
