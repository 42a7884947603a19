from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.frames import Source
from edge.pipeline import frame_reader
from edge.sources import realtime_playback
from edge.sources.factory import open_source
from edge.sources.realtime_playback import PacedSource
from tests.conftest import Outcome
from tests.support.clocks import ManualClock


def pace(name: str, fps: float | None = None) -> tuple[PacedSource, ManualClock]:
    """Return a file in real time, on a clock that moves only while the source waits."""
    clock = ManualClock()

    def wait(seconds: float) -> bool:
        clock.advance(seconds)
        return False

    return PacedSource(open_source(name, fps=fps), fps, clock, wait), clock


def test_each_frame_comes_when_it_is_due() -> None:
    source, clock = pace("synthetic:3:64x64:6")
    start_s = clock()
    frames = list(source)
    assert clock() - start_s == pytest.approx(0.5)
    np.testing.assert_allclose(np.diff([frame.capture_s for frame in frames]), 0.1)
    for frame, original in zip(frames, open_source("synthetic:3:64x64:6"), strict=True):
        np.testing.assert_array_equal(frame.image, original.image)
    source.close()


def test_late_frame_is_stamped_when_it_is_ready() -> None:
    source, clock = pace("synthetic:3:64x64:4")
    stamps = []
    for frame in source:
        stamps.append(frame.capture_s)
        clock.advance(0.25 if frame.index == 0 else 0.0)
    np.testing.assert_allclose(np.asarray(stamps) - stamps[0], [0, 0.25, 0.25, 0.3])


def test_given_rate_paces_a_folder(tmp_path: Path) -> None:
    for index in range(13):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((64, 64, 3), np.uint8))
    source, _ = pace(str(tmp_path), fps=40)
    stamps = [frame.capture_s for frame in source]
    assert source.fps == 40
    assert stamps[-1] - stamps[0] == pytest.approx(0.3)  # at a folder's own 10 frames per second: 1.2 s


def test_given_rate_paces_a_video(video: Path) -> None:
    source, _ = pace(str(video), fps=100)
    stamps = [frame.capture_s for frame in source]
    source.close()
    np.testing.assert_allclose(np.diff(stamps), 0.01)


def test_closed_source_ends_early() -> None:
    source = PacedSource(open_source("synthetic:3:64x64:6"))
    source.close()
    assert len(list(source)) == 1  # the first frame is due at once, and the second is waited for


def pace_on_time(source: Source, fps: float | None = None) -> PacedSource:
    """Return a source in real time whose frames are stamped when they are due, also if they are ready later.

    The student takes its past frame by these times. On a busy machine, it would not take the frame before.
    """
    start_s = time.monotonic()

    def wait(seconds: float) -> bool:
        time.sleep(max(0.0, start_s + seconds - time.monotonic()))
        return False

    return PacedSource(source, fps, lambda: start_s, wait)


def test_real_time_run_writes_the_same_maps_as_a_run_over_the_file(
    command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime_playback, "PacedSource", pace_on_time)
    monkeypatch.setattr(frame_reader, "MAX_FRAME_AGE_S", 1e6)  # an older frame would get another time
    summaries = {}
    for flag in ("--realtime", "--every-frame"):
        words = ("synthetic:3:320x180:6", flag, "--maps", str(tmp_path / flag), "--json")
        outcome = command("run", *words)
        assert outcome.code == 0
        summaries[flag] = json.loads(outcome.out)
    live = summaries["--realtime"]
    assert live["frames"] + live["dropped"] == summaries["--every-frame"]["frames"] == 6
    live_maps = sorted((tmp_path / "--realtime").iterdir())
    assert len(live_maps) == live["frames"] > 0
    for index, path in enumerate(live_maps):
        if path.name != f"{index:06d}.png":
            break  # the student is recurrent: after a dropped frame, its maps may differ
        assert path.read_bytes() == (tmp_path / "--every-frame" / path.name).read_bytes()
