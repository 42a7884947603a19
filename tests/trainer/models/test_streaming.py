"""Streaming student: equality of its two forms, causality, and the documented costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.release.release import StateSpec
from edge.simulation.world import World
from tests.support.untrained import small_streaming_network
from trainer.datasets.clips import LabelledFrame
from trainer.inference.torch_predictors import StudentPredictor
from trainer.models.complexity import multiply_accumulates
from trainer.models.efficientnet_lite import EfficientNetLite0
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import group_means
from trainer.models.skd import load_overlapping_weights
from trainer.models.streaming import REDUCTIONS, SIZES, WINDOW, Encoder, Reduction, StreamingNetwork
from trainer.models.student import StreamingSettings, Student, load_student, parameter_count
from trainer.models.tinyhd import LEVELS

SMALL = (64, 96)
# By rc: parameters, and multiply-accumulates per frame of 192 x 256 (a quarter of them at half the size).
COSTS: dict[Reduction, tuple[float, float]] = {
    1: (1.281e6, 0.428e9),
    2: (0.597e6, 0.239e9),
    4: (240.6e3, 0.1002e9),
}


ALIGNED_COSTS = 245.8e3, 26.17e6
"""The same at rc 4 for 96 x 128, with alignment."""


def settings_of(rc: Reduction, height: int, width: int, aligned: bool = False) -> StreamingSettings:
    return StreamingSettings(height, width, rc, 0.3 * aligned, aligned)


def state_specs(rc: Reduction, height: int, width: int) -> tuple[StateSpec, ...]:
    settings = StreamingSettings(height, width, rc)
    return forms_of(Student("s", settings, settings.build(), {})).states


def stream_maps(network: StreamingNetwork, clip: Tensor, states: tuple[StateSpec, ...]) -> Tensor:
    """Return the maps (N, T, H, W) of a clip, computed frame by frame."""
    recurrent = RecurrentState(states, {s.input: torch.zeros(clip.shape[0], *s.shape[1:]) for s in states})
    maps = []
    for frame in [clip[:, :, 0], *clip.unbind(2)]:  # the preroll, then the clip
        saliency, *new_states = network.step(*torch.split(frame, 3, dim=1), *recurrent.feed().values())
        recurrent.update(dict(zip(recurrent.outputs, new_states, strict=True)))
        maps.append(saliency)
    return torch.cat(maps[1:], dim=1)


@pytest.mark.parametrize(
    ("rc", "size", "aligned"),
    [*((rc, size, False) for rc in REDUCTIONS for size in SIZES), (4, SIZES[1], True)],
)
def test_stream_form_returns_the_maps_of_the_clip_form(
    rc: Reduction, size: tuple[int, int], aligned: bool
) -> None:
    network = small_streaming_network(rc, aligned=aligned)
    clip = torch.rand(1, network.channels, WINDOW + 1, *size) * 2 - 1
    with torch.inference_mode():
        maps = network(clip)
        torch.testing.assert_close(
            stream_maps(network, clip, state_specs(rc, *size)), maps.fused, atol=1e-5, rtol=0
        )
    assert list(maps.parts) == [*LEVELS, "d2", "d3"]
    assert {tuple(part.shape) for part in [maps.fused, *maps.parts.values()]} == {(1, WINDOW + 1, *size)}
    for part in (maps.fused, *maps.parts.values()):
        assert 0 <= part.min() < part.max() <= 1


def test_map_depends_on_its_frame_and_up_to_eight_before() -> None:
    network, clip, changed_index = small_streaming_network(4), torch.rand(1, 3, 24, *SMALL), 10
    changed = clip.clone()
    changed[:, :, changed_index] = 1 - changed[:, :, changed_index]
    with torch.inference_mode():
        before, after = network(clip), network(changed)
    for name in ("x0", "x1", "x2", "x3", "d2", "d3", "fused"):
        first, second = (maps.fused if name == "fused" else maps.parts[name] for maps in (before, after))
        different = [
            step for step in range(24) if not torch.allclose(first[:, step], second[:, step], atol=1e-7)
        ]
        taps = {"x0": [0, 2, 4], "x1": [0, 4, 8], "x2": [0, 4, 8], "x3": [0]}.get(name, [0, 2, 4, 8])
        assert different == [changed_index + tap for tap in taps], name
    assert max(taps) + 1 == WINDOW


@pytest.mark.parametrize("lag_s", [0.3, 1.2])
def test_window_of_a_map_holds_the_aligned_frame_and_what_the_memories_store(lag_s: float) -> None:
    network = small_streaming_network(4, aligned=True)
    student = Student("s", StreamingSettings(96, 128, 4, lag_s, True), network, {})
    forms, prepare, world = forms_of(student), student.settings.preprocessing(), World(3, 320, 180)
    frames = [world.frame(index).image for index in range(14)]
    with torch.inference_mode():
        whole, last = (
            forms.window_map(torch.from_numpy(prepare.stack_window(images, NOMINAL_FPS)))
            for images in (frames, frames[-forms.window :])
        )
    torch.testing.assert_close(last, whole)


def test_each_state_influences_the_map() -> None:
    network, clip, states = (
        small_streaming_network(4),
        torch.rand(1, 3, WINDOW, 96, 128),
        state_specs(4, 96, 128),
    )
    with torch.inference_mode():
        recurrent = RecurrentState(states, {s.input: torch.zeros(s.shape) for s in states})
        for frame in clip.unbind(2)[:-1]:
            _, *new_states = network.step(frame, *recurrent.feed().values())
            recurrent.update(dict(zip(recurrent.outputs, new_states, strict=True)))
        pasts = list(recurrent.feed().values())
        expected = network.step(clip[:, :, -1], *pasts)[0]
        for index in range(len(states)):
            without_state = [past * (i != index) for i, past in enumerate(pasts)]
            assert (network.step(clip[:, :, -1], *without_state)[0] - expected).abs().max() > 1e-4


@pytest.mark.parametrize("rc", REDUCTIONS)
@pytest.mark.parametrize(("size", "part"), [(SIZES[0], 1), (SIZES[1], 4)])
def test_parameters_and_work_are_as_documented(rc: Reduction, size: tuple[int, int], part: int) -> None:
    with torch.device("meta"):
        network, clip = StreamingNetwork(rc), torch.zeros(1, 3, 2, *size)
    parameters, work = COSTS[rc]
    assert parameter_count(network) == pytest.approx(parameters, rel=0.01)
    assert multiply_accumulates(network, clip) == pytest.approx(2 * work / part, rel=0.01)


def test_difference_to_the_aligned_frame_adds_two_percent_of_parameters_and_four_of_work() -> None:
    with torch.device("meta"):
        network, clip = StreamingNetwork(4, aligned=True), torch.zeros(1, 6, 2, *SIZES[1])
    parameters, work = ALIGNED_COSTS
    assert parameter_count(network) == pytest.approx(parameters, rel=0.001)
    assert multiply_accumulates(network, clip) == pytest.approx(2 * work, rel=0.001)


def test_network_with_alignment_starts_from_the_maps_of_one_without() -> None:
    plain, aligned = small_streaming_network(4), small_streaming_network(4, seed=1, aligned=True)
    load_overlapping_weights(aligned, plain)
    clip = torch.rand(1, 3, 3, *SMALL)
    with torch.inference_mode():
        expected = plain(clip).fused
        torch.testing.assert_close(aligned(clip.repeat(1, 2, 1, 1, 1)).fused, expected)  # no difference
        moved = aligned(torch.cat([clip, clip.roll(1, 2)], dim=1)).fused
    assert (moved - expected).abs().max() > 1e-3


@pytest.mark.parametrize("aligned", [False, True])
def test_every_parameter_has_a_finite_gradient(aligned: bool) -> None:
    network = StreamingNetwork(4, aligned).train()
    maps = network(torch.rand(2, network.channels, 3, *SMALL) * 2 - 1)
    sum(part.square().mean() for part in [maps.fused, *maps.parts.values()]).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_encoder_computes_the_published_features_of_a_shifted_frame() -> None:
    encoder, published = Encoder(1).eval(), EfficientNetLite0().eval()
    encoder.load_imagenet()
    published.load_imagenet()
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, size=256, mode="bilinear")
    shifted = torch.zeros_like(image)
    shifted[:, :, 3:, 3:] = image[:, :, :-3, :-3]  # one pixel at stride 1, one at stride 2
    with torch.inference_mode():
        features, expected = encoder(image)[0], published(shifted)[1]
    inner = slice(8, -8)
    torch.testing.assert_close(features[..., inner, inner], expected[..., inner, inner], atol=1e-3, rtol=1e-3)


def test_reduced_encoder_starts_from_the_means_of_groups() -> None:
    full, half = Encoder(1), Encoder(2)
    full.load_imagenet()
    half.load_imagenet()
    for reduced, original in zip(half.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(reduced, group_means(original, reduced.shape))


@pytest.mark.parametrize("aligned", [False, True])
def test_saved_student_loads_unchanged(tmp_path: Path, aligned: bool) -> None:
    settings, network = settings_of(4, 96, 128, aligned), small_streaming_network(4, aligned=aligned)
    student = Student("s", settings, network, {"data": "none"})
    student.save(tmp_path / "s.safetensors")
    loaded = load_student(tmp_path / "s.safetensors")
    assert loaded.settings == settings
    clip = torch.rand(1, network.channels, 2, *SMALL)
    with torch.inference_mode():
        assert torch.equal(loaded.network(clip).fused, student.network(clip).fused)


def test_unsupported_settings_and_shapes_are_reported() -> None:
    with pytest.raises(InputError, match="no streaming student for 100 x 128 at rc 4; expected 192 x 256"):
        StreamingSettings(100, 128, 4)
    with pytest.raises(InputError, match="at rc 3"):
        StreamingSettings(96, 128, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no streaming student at rc 8"):
        StreamingNetwork(8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the clip has shape \(1, 3, 2, 60, 96\)"):
        StreamingNetwork(4)(torch.zeros(1, 3, 2, 60, 96))
    with pytest.raises(InputError, match=r"expected \(N, 6, T, H, W\)"):
        StreamingNetwork(4, aligned=True)(torch.zeros(1, 3, 2, 64, 96))
    for lag_s, align in ((0.3, False), (0.0, True), (3.0, True)):
        with pytest.raises(InputError, match=f"cannot have align {align} and lag_s {lag_s}"):
            StreamingSettings(96, 128, 4, lag_s, align)


@pytest.mark.parametrize("aligned", [False, True])
def test_predictor_returns_the_maps_of_the_clip_form(tmp_path: Path, aligned: bool) -> None:
    network, path = small_streaming_network(4, aligned=aligned), tmp_path / "s.safetensors"
    student = Student("s", settings_of(4, 96, 128, aligned), network, {})
    student.save(path)
    world = World(3, 320, 180)
    images = [world.frame(index).image for index in range(WINDOW + 1)]
    frames = [LabelledFrame(index, image, None, None, None) for index, image in enumerate(images)]
    maps = [saliency for _, saliency in StudentPredictor(str(path), NOMINAL_FPS).predict("a", frames)]
    clip = torch.from_numpy(student.settings.preprocessing().stack_window(images, NOMINAL_FPS))
    with torch.inference_mode():
        np.testing.assert_allclose(maps, network(clip).fused[0].numpy(), atol=1e-5)
