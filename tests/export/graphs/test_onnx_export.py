"""Tests of the export to ONNX and of the conversion to float16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from export.graphs.fp16 import to_fp16
from export.graphs.onnx_export import OPSET, export_onnx
from tests.support.exporting import random_student
from tests.support.made_once import MadeOnce
from trainer.models.batch_norm_folding import fold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.skd import RESOLUTIONS
from trainer.models.student import Student, as_skd


@pytest.fixture
def stream(student: Student, made_once: MadeOnce) -> onnx.ModelProto:
    """The streaming graph of the student."""
    name = f"stream-{student.name}-{as_skd(student)[0].pair}"
    folder = made_once(name, lambda folder: onnx.save(export_onnx(student, "stream", 1), folder / "m.onnx"))
    return onnx.load(folder / "m.onnx")


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def random_clip(student: Student, length: int) -> np.ndarray:
    side = as_skd(student)[0].resolution
    return np.random.default_rng(0).uniform(-1, 1, (length, 1, 3, side, side)).astype(np.float32)


def stream_maps(model: onnx.ModelProto, frames: np.ndarray) -> np.ndarray:
    """Return the maps of a clip, computed frame by frame, with the first frame repeated before the clip."""
    opened = open_session(model)
    shape = opened.get_inputs()[1].shape
    kind = np.float16 if opened.get_inputs()[1].type == "tensor(float16)" else np.float32
    features = np.zeros(shape, kind)
    maps = []
    for frame in [frames[0], *frames]:
        saliency, features = opened.run(None, {"frame": frame, "features": features})
        maps.append(saliency)
    return np.stack(maps[1:])


def pair_maps(student: Student, frames: np.ndarray) -> np.ndarray:
    """Return PyTorch's maps of a clip; a frame without neighbour is paired with itself."""
    looks_ahead = student.settings.delay_frames
    others = [*frames[1:], frames[-1]] if looks_ahead else [frames[0], *frames[:-1]]
    module = forms_of(student).modules["pair"]
    with torch.inference_mode():
        return np.stack(
            [
                module(torch.from_numpy(a), torch.from_numpy(b)).numpy()
                for a, b in zip(frames, others, strict=True)
            ]
        )


def test_streamed_equals_paired(student: Student, stream: onnx.ModelProto) -> None:
    frames = random_clip(student, 6)
    maps = stream_maps(stream, frames)
    expected = pair_maps(student, frames)
    if student.settings.delay_frames:  # one frame late
        maps, expected = maps[1:], expected[:-1]
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_pair_form_has_the_requested_batch(student: Student, batch: int | None) -> None:
    model = export_onnx(student, "pair", batch)
    opened = open_session(model)
    assert opened.get_inputs()[0].shape[0] == ("batch" if batch is None else batch)
    for size in (batch,) if batch else (1, 3, 8):
        frames, others = random_clip(student, 2 * size).reshape(2, size, 3, 32, 32)
        maps = opened.run(None, {"frame": frames, "other": others})[0]
        with torch.inference_mode():
            expected = forms_of(student).modules["pair"](torch.from_numpy(frames), torch.from_numpy(others))
        np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("side", RESOLUTIONS)
def test_stream_of_every_resolution_equals_pytorch(side: int) -> None:
    student = random_student(side, "previous")
    frames = random_clip(student, 2)
    maps = stream_maps(export_onnx(student, "stream", 1), frames)
    np.testing.assert_allclose(maps, pair_maps(student, frames), atol=1e-5)


def test_batch_norm_and_feature_difference_are_folded_without_changing_the_map(
    student: Student, stream: onnx.ModelProto
) -> None:
    operators = {node.op_type for node in stream.graph.node}
    assert "BatchNormalization" not in operators
    assert stream.opset_import[0].version == OPSET
    frame, other = torch.rand(2, 1, 3, 32, 32)
    pair = forms_of(student).modules["pair"]
    folded_pair = fold_batch_norm(pair)
    assert sum(node.op_type == "Sub" for node in stream.graph.node) == 1  # of the head
    torch.testing.assert_close(folded_pair(frame, other), pair(frame, other), atol=1e-5, rtol=1e-5)


def test_fp16_keeps_frames_and_maps_in_fp32(student: Student, stream: onnx.ModelProto) -> None:
    model = to_fp16(stream, ["frame", "saliency"])
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]}
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert kinds == {"frame": single, "saliency": single, "features": half, "features_out": half}
    assert {t.data_type for t in model.graph.initializer if len(t.dims) > 1} == {half}
    frames = random_clip(student, 3)
    np.testing.assert_allclose(stream_maps(model, frames), stream_maps(stream, frames), atol=5e-3)
