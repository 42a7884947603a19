"""Export of a student to fp32 ONNX graphs, with batch norms folded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from edge.release.release import Form
from trainer.models.batch_norm_folding import fold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import Student

OPSET = 20
"""ONNX opset. Q/DQ on float16 needs 19 or above; ONNX Runtime's quantizer refuses 21 and above."""
SALIENCY = "saliency"


def export_onnx(student: Student, form: Form, batch: int | None) -> onnx.ModelProto:
    """Return the fp32 graph of a student.

    Args:
        student: The student.
        form: Form of the graph.
        batch: Batch size; None leaves it dynamic. A stream has the batch of its states, 1.

    Raises:
        InputError: The student has no such form.
    """
    check_form(student, form)
    forms = forms_of(student)
    size = student.settings.preprocessing()
    frames, states = forms.inputs(form), forms.states if form == "stream" else ()
    clip = (forms.window,) if form == "clip" else ()
    # torch.export makes a batch of 1 a constant, so a dynamic batch is traced with 2.
    # One tensor per input: the exporter merges inputs that are the same tensor.
    arguments = [torch.zeros(batch or 2, 3, *clip, size.height, size.width) for _ in frames]
    arguments += [torch.full(state.shape, state.start) for state in states]
    return trace_onnx(
        fold_batch_norm(forms.modules[form]),
        tuple(arguments),
        [*frames, *(state.input for state in states)],
        [SALIENCY, *dict.fromkeys(state.output for state in states)],
        dynamic_batch=batch is None,
    )


def check_form(student: Student, form: Form) -> None:
    """Check that a student can be exported in a form.

    Raises:
        InputError: The student has no such form.
    """
    available = forms_of(student).modules
    if form not in available:
        raise InputError(
            f"student {student.name} has no {form} form; it has {', '.join(available)}: "
            "leave --form out, or choose one of these"
        )


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that was traced with a batch of 1 and takes any batch.

    Args:
        model: The graph. Its operators treat each item of the batch alone, and no constant holds its size.
    """
    dynamic = onnx.ModelProto()
    dynamic.CopyFrom(model)
    graph = dynamic.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # inferred again, with the batch
    inferred = onnx.shape_inference.infer_shapes(dynamic, data_prop=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def trace_onnx(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    """Return the graph of a module.

    Args:
        module: The module.
        arguments: Example arguments, which set the shapes.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        dynamic_batch: Leave the first dimension of each input dynamic.
    """
    axes = tuple({0: torch.export.Dim("batch")} for _ in arguments) if dynamic_batch else None
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
    for node in model.graph.node:  # the source line of each node: a quarter of the bytes of a small graph
        node.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    return model
