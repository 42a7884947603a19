"""The streaming student: one network in two forms, causal, and of the size that its page says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.release.manifest import StateSpec
from trainer.datasets.clips import LabelledFrame
from trainer.inference.predictors import StudentPredictor
from trainer.models.complexity import multiply_accumulates
from trainer.models.efficientnet_lite import EfficientNetLite0
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import group_means
from trainer.models.streaming import REDUCTIONS, SIZES, WINDOW, Encoder, Reduction, StreamingNetwork
from trainer.models.student import StreamingSettings, Student, load_student, parameter_count
from trainer.models.tinyhd import LEVELS

SMALL = (64, 96)
# rc: parameters, multiply-accumulates for a frame of 192 x 256 (a quarter of it at half the size).
COSTS: dict[Reduction, tuple[float, float]] = {
    1: (1.281e6, 0.428e9),
    2: (0.597e6, 0.239e9),
    4: (240.6e3, 0.1002e9),
}


def settled(rc: Reduction, seed: int = 0) -> StreamingNetwork:
    """Return an untrained network whose batch norms have seen some data."""
    torch.manual_seed(seed)
    network = StreamingNetwork(rc).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(1, 3, 6, *SMALL) * 2 - 1)
    return network.eval()


def starts(rc: Reduction, height: int, width: int) -> tuple[StateSpec, ...]:
    settings = StreamingSettings(height, width, rc)
    return forms_of(Student("s", settings, settings.build(), {})).states


def streamed(network: StreamingNetwork, clip: Tensor, states: tuple[StateSpec, ...]) -> Tensor:
    """Return the maps (N, T, H, W) of a clip, frame by frame."""
    carried = RecurrentState(states, {s.input: torch.zeros(clip.shape[0], *s.shape[1:]) for s in states})
    maps = []
    for frame in [clip[:, :, 0], *clip.unbind(2)]:  # the preroll, then the clip
        saliency, *given = network.step(frame, *carried.feed().values())
        carried.update(dict(zip(carried.outputs, given, strict=True)))
        maps.append(saliency)
    return torch.cat(maps[1:], dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rc", REDUCTIONS)
def test_streamed_is_the_clips_from_the_first_frame_on(rc: Reduction, size: tuple[int, int]) -> None:
    network, clip = settled(rc), torch.rand(1, 3, WINDOW + 1, *size) * 2 - 1
    with torch.inference_mode():
        maps = network(clip)
        torch.testing.assert_close(streamed(network, clip, starts(rc, *size)), maps.fused, atol=1e-5, rtol=0)
    assert list(maps.parts) == [*LEVELS, "d2", "d3"]
    assert {tuple(part.shape) for part in [maps.fused, *maps.parts.values()]} == {(1, WINDOW + 1, *size)}
    for part in (maps.fused, *maps.parts.values()):
        assert 0 <= part.min() < part.max() <= 1


def test_a_map_depends_on_its_own_frame_and_eight_before() -> None:
    network, clip, late = settled(4), torch.rand(1, 3, 24, *SMALL), 10
    changed = clip.clone()
    changed[:, :, late] = 1 - changed[:, :, late]
    with torch.inference_mode():
        before, after = network(clip), network(changed)
    for name in ("x0", "x1", "x2", "x3", "d2", "d3", "fused"):
        one, other = (maps.fused if name == "fused" else maps.parts[name] for maps in (before, after))
        different = [
            step for step in range(24) if not torch.allclose(one[:, step], other[:, step], atol=1e-7)
        ]
        taps = {"x0": [0, 2, 4], "x1": [0, 4, 8], "x2": [0, 4, 8], "x3": [0]}.get(name, [0, 2, 4, 8])
        assert different == [late + tap for tap in taps], name
    assert max(taps) + 1 == WINDOW


def test_a_state_that_is_not_fed_back_changes_the_map() -> None:
    network, clip, states = settled(4), torch.rand(1, 3, WINDOW, 96, 128), starts(4, 96, 128)
    with torch.inference_mode():
        carried = RecurrentState(states, {s.input: torch.zeros(s.shape) for s in states})
        for frame in clip.unbind(2)[:-1]:
            _, *given = network.step(frame, *carried.feed().values())
            carried.update(dict(zip(carried.outputs, given, strict=True)))
        pasts = list(carried.feed().values())
        expected = network.step(clip[:, :, -1], *pasts)[0]
        for index in range(len(states)):
            forgotten = [past * (at != index) for at, past in enumerate(pasts)]
            assert (network.step(clip[:, :, -1], *forgotten)[0] - expected).abs().max() > 1e-4


@pytest.mark.parametrize("rc", REDUCTIONS)
@pytest.mark.parametrize(("size", "part"), [(SIZES[0], 1), (SIZES[1], 4)])
def test_it_costs_what_its_page_says(rc: Reduction, size: tuple[int, int], part: int) -> None:
    with torch.device("meta"):
        network, clip = StreamingNetwork(rc), torch.zeros(1, 3, 2, *size)
    parameters, work = COSTS[rc]
    assert parameter_count(network) == pytest.approx(parameters, rel=0.01)
    assert multiply_accumulates(network, clip) == pytest.approx(2 * work / part, rel=0.01)


def test_every_parameter_learns() -> None:
    network = StreamingNetwork(4).train()
    maps = network(torch.rand(2, 3, 3, *SMALL) * 2 - 1)
    sum(part.square().mean() for part in [maps.fused, *maps.parts.values()]).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_encoder_is_the_published_one_on_a_moved_frame() -> None:
    ours, published = Encoder(1).eval(), EfficientNetLite0().eval()
    ours.load_imagenet()
    published.load_imagenet()
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16) * 2 - 1, size=256, mode="bilinear")
    moved = torch.zeros_like(image)
    moved[:, :, 3:, 3:] = image[:, :, :-3, :-3]  # one pixel at stride 1, one at stride 2
    with torch.inference_mode():
        one, other = ours(image)[0], published(moved)[1]
    inner = slice(8, -8)
    torch.testing.assert_close(one[..., inner, inner], other[..., inner, inner], atol=1e-3, rtol=1e-3)


def test_at_rc_above_1_the_encoder_starts_from_the_means_of_groups() -> None:
    full, half = Encoder(1), Encoder(2)
    full.load_imagenet()
    half.load_imagenet()
    for ours, theirs in zip(half.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(ours, group_means(theirs, ours.shape))


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    settings = StreamingSettings(96, 128, 4)
    student = Student("s", settings, settled(4), {"data": "none"})
    student.save(tmp_path / "s.safetensors")
    again = load_student(tmp_path / "s.safetensors")
    assert again.settings == settings
    clip = torch.rand(1, 3, 2, *SMALL)
    with torch.inference_mode():
        assert torch.equal(again.network(clip).fused, student.network(clip).fused)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="no streaming student for 100 x 128 at rc 4; expected 192 x 256"):
        StreamingSettings(100, 128, 4)
    with pytest.raises(InputError, match="at rc 3"):
        StreamingSettings(96, 128, 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no streaming student at rc 8"):
        StreamingNetwork(8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the clip has shape \(1, 3, 2, 60, 96\)"):
        StreamingNetwork(4)(torch.zeros(1, 3, 2, 60, 96))


def test_predicted_maps_are_the_clips_from_the_first_frame_on(tmp_path: Path) -> None:
    network, place = settled(4), tmp_path / "s.safetensors"
    student = Student("s", StreamingSettings(96, 128, 4), network, {})
    student.save(place)
    images = np.random.default_rng(0).integers(0, 255, (WINDOW + 1, 96, 128, 3), dtype=np.uint8)
    frames = [LabelledFrame(index, image, None, None, None) for index, image in enumerate(images)]
    maps = [saliency for _, saliency in StudentPredictor(str(place), NOMINAL_FPS).predict("a", frames)]
    clip = torch.from_numpy(student.settings.preprocessing().stack_window(list(images)))
    with torch.inference_mode():
        np.testing.assert_allclose(maps, network(clip).fused[0].numpy(), atol=1e-5)
