"""Live runs of the default student, which looks 0.3 s back: first frames, gaps, and clocks of all kinds."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from edge.core.run_status import RunInfo, Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline import frame_reader
from edge.pipeline.run import run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.preprocessing import transform
from edge.preprocessing.transform import MAX_PAST_FRAMES, Alignment, FramePreprocessor, Preprocessing
from edge.simulation.world import World
from tests.support.live_doubles import FPS, RecordingSink, ScriptedCamera, ScriptedModel

PREPARE = Preprocessing(64, 64, alignment=Alignment(0.3))


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    world = World(7, 160, 90)
    return [world.frame(index).image for index in range(14)]


@pytest.mark.parametrize("announced_fps", [1, 10, 30, 240])
@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        (np.arange(8) / 10, [0, 0, 0, 0, 1, 2, 3, 4]),  # 10 frames per second
        (np.arange(6) / 2, [0, 0, 1, 2, 3, 4]),  # 2: the frame before is closest
        (np.arange(14) / 30, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),  # 30: nine frames
        ([0, 0.1, 0.5, 0.6, 0.7, 0.8], [0, 0, 1, 1, 2, 2]),  # three frames were lost
        ([0, 0.1, 9.0, 9.1, 9.5], [0, 0, 1, 2, 3]),  # nine seconds without a frame
        ([5.0, 5.1, 2.0, 2.1, 2.4], [0, 0, 2, 2, 3]),  # the clock was set back
    ],
)
def test_past_frame_is_that_captured_closest_to_the_lag_before(
    monkeypatch: pytest.MonkeyPatch, announced_fps: float, times_s: Sequence[float], expected: list[int]
) -> None:
    monkeypatch.setattr(transform, "align_frame", lambda past, now: past)
    preprocess = FramePreprocessor(PREPARE, announced_fps)
    indices = []
    for index, time_s in enumerate(times_s):  # the level of a frame is its index
        past = preprocess(np.full((9, 16, 3), index, np.uint8), float(time_s))[1]
        indices.append(round(float((past.mean() - PREPARE.offset) / PREPARE.scale)))
    assert indices == expected


def test_clock_that_stands_still_keeps_few_frames(frames: list[np.ndarray]) -> None:
    preprocess = FramePreprocessor(PREPARE, 30)
    for _ in range(MAX_PAST_FRAMES + 5):
        preprocess(np.zeros((16, 16, 3), np.uint8), 1.0)
    assert len(preprocess._past) <= MAX_PAST_FRAMES
    assert preprocess(frames[0], 1.4).shape == (2, 3, 64, 64)


def run_camera(camera: ScriptedCamera) -> dict[int, np.ndarray]:
    """Run the default student live; return the maps by the index of the frame."""
    sink, status = RecordingSink(), Status(RunInfo("skd-64-motion", "fp32", "test", "camera"))
    settings = LiveSettings(lambda: camera, ScriptedModel)
    summary = run_pipeline(camera, ScriptedModel(), [sink], live=settings, status=status)
    assert summary.frames + summary.dropped == len(camera.indices)
    assert summary.faults == {}
    return {result.frame.index: result.saliency for result in sink.results}


def expected_maps(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return the maps of a clip of 10 frames per second."""
    with SaliencyModel(None, "fp32", 1) as model:
        model.reset(10)
        return [model.infer(model.prepare(frame)) for frame in frames]


def test_camera_with_a_wrong_rate_gives_the_maps_of_its_true_one(
    frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera announces 50 frames per second and delivers 10, by its clock."""
    monkeypatch.setattr(frame_reader, "MAX_FRAME_AGE_S", 1e6)  # its frames are old, but come at once
    start_s = time.monotonic() - 100
    camera = ScriptedCamera(
        range(len(frames)), stamp=lambda index, now: start_s + index / 10, image=lambda index: frames[index]
    )
    assert camera.fps == FPS == 50
    maps, expected = run_camera(camera), expected_maps(frames)
    assert len(maps) >= 3  # a slow machine may drop the others, which are prepared nevertheless
    for index, saliency in maps.items():
        np.testing.assert_allclose(saliency, expected[index], atol=1e-5)


def test_first_frame_is_paired_with_itself_and_a_still_camera_keeps_its_map(
    frames: list[np.ndarray],
) -> None:
    maps = run_camera(ScriptedCamera(range(12), image=lambda index: frames[5]))
    first = expected_maps([frames[5]])[0]
    for saliency in maps.values():  # nothing moves, before the lag is reached and after
        np.testing.assert_allclose(saliency, first, atol=0.02)
