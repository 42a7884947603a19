"""Live runs: only the newest frame is run, no sink delays the run, and odd frames and maps are survived."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame, PreparedInput
from edge.core.run_status import Status
from edge.pipeline.clock_monitor import ClockMonitor
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.sink_worker import QUEUE_SIZE
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from tests.support.live_doubles import (
    HANG_LIMIT_S,
    IMAGE,
    INCOMPLETE,
    RecordingSink,
    ScriptedCamera,
    ScriptedModel,
    run_live,
)

pytestmark = pytest.mark.usefixtures("no_threads_left")


def test_slow_engine_gets_the_newest_frames_and_every_drop_is_counted(status: Status) -> None:
    """While the engine works on a frame, the camera delivers three more; the last of them is run next."""
    engine_calls = [threading.Event() for _ in range(20)]
    frames_read = [threading.Event() for _ in range(20)]

    class LockstepCamera(ScriptedCamera):
        def __iter__(self) -> Iterator[Frame]:
            for index in self.indices:
                call = (index + 2) // 3  # frames 1 to 3 come during call 0, frames 4 to 6 during call 1
                if call:
                    assert engine_calls[call - 1].wait(HANG_LIMIT_S)
                yield Frame(index, time.monotonic(), IMAGE)
                if index % 3 == 0:
                    frames_read[index // 3].set()  # the next frame is requested: this one is in the queue

    class LockstepModel(ScriptedModel):
        def submit(self, prepared: PreparedInput) -> None:
            if (call := self.calls) >= 0:
                engine_calls[call].set()
                if call + 1 < len(frames_read):
                    assert frames_read[call + 1].wait(HANG_LIMIT_S)
            super().submit(prepared)

    sink = RecordingSink()
    summary = run_live(LockstepCamera(range(58)), LockstepModel(), status, [sink], stall_s=HANG_LIMIT_S)
    assert sink.indices == list(range(0, 58, 3))
    assert (summary.frames, summary.dropped) == (20, 38)
    assert summary.faults == {}


def test_latency_counts_from_the_capture_time(status: Status) -> None:
    sink = RecordingSink()
    before = time.monotonic()
    run_live(ScriptedCamera(range(20), stamp=lambda index, now: now - 0.2), ScriptedModel(), status, [sink])
    stamps = [result.frame.capture_s for result in sink.results]
    assert before - 0.2 < stamps[0] < stamps[-1] < time.monotonic() - 0.2
    assert all(result.latency_ms > 200 for result in sink.results)


def test_slow_sink_loses_its_oldest_results_and_slows_nothing_down(status: Status) -> None:
    """The slow sink is blocked in its first write until the last result was delivered."""
    last_delivered = threading.Event()

    class BlockedSink(RecordingSink):
        def write(self, result: Result) -> None:
            assert last_delivered.wait(HANG_LIMIT_S)
            super().write(result)

    def watch(result: Result) -> None:
        if result.frame.index == 79:
            last_delivered.set()

    fast, slow = RecordingSink(), BlockedSink()
    summary = run_live(
        ScriptedCamera(range(80)), ScriptedModel(), status, [slow, fast], hooks=RunHooks(on_result=watch)
    )
    assert summary.frames + summary.dropped == 80
    assert summary.frames > QUEUE_SIZE + 1
    assert len(fast.indices) == summary.frames
    assert slow.indices[-QUEUE_SIZE:] == fast.indices[-QUEUE_SIZE:]
    assert slow.indices == sorted(set(slow.indices))
    assert len(slow.indices) <= QUEUE_SIZE + 1
    assert summary.faults["sink:blocked"] == 1
    assert (slow.ended, fast.ended, summary.failed) == ("finished committed", "finished committed", ())


@pytest.mark.parametrize("error", [InputError("the disk is full"), OSError("connection lost"), SystemExit(1)])
def test_failing_sink_does_not_affect_the_others(status: Status, error: BaseException) -> None:
    good, bad = RecordingSink(), RecordingSink(errors={5: error, 6: error})
    summary = run_live(ScriptedCamera(range(40)), ScriptedModel(), status, [bad, good])
    assert good.ended == bad.ended == "finished committed"
    assert len(good.results) == summary.frames
    assert summary.faults == {"sink:recording": 1}
    if isinstance(error, InputError):  # the sink cannot continue: it gets no more results
        assert len(bad.results) == 4
        assert summary.failed == ("sink:recording: the disk is full",)
    else:
        assert len(bad.results) == summary.frames - 2
        assert summary.failed == ()


def test_incomplete_output_is_discarded_and_the_others_are_committed(status: Status) -> None:
    good, bad = RecordingSink(), RecordingSink(finish_error=INCOMPLETE)
    summary = run_live(ScriptedCamera(range(5)), ScriptedModel(), status, [bad, good])
    assert (bad.ended, good.ended) == ("discarded", "finished committed")
    assert summary.failed == ("sink:recording: half of it is missing",)


@pytest.mark.parametrize("fails", [None, "no more"])
def test_state_is_stopped_when_sinks_are_committed(status: Status, fails: str | None) -> None:
    states = []

    class StateRecordingSink(RecordingSink):
        def commit(self) -> None:
            states.append(status.snapshot().state)

    with contextlib.suppress(InputError):
        run_pipeline(
            ScriptedCamera(range(3), fails=fails),
            ScriptedModel(),
            [StateRecordingSink()],
            status=status,
            live=LiveSettings(),
        )
    assert states == ["stopped"]


def test_last_valid_map_is_repeated_for_nan_maps_and_counted(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    sink = RecordingSink()
    summary = run_live(ScriptedCamera(range(40)), ScriptedModel(nan=[0, 10, 11, 12, 20]), status, [sink])
    assert summary.held == 4  # before the first map there is none to repeat
    assert summary.faults == {"engine": 1}, "all within one episode"
    assert sum("not finite" in record.getMessage() for record in caplog.records) == 1
    maps = [result.saliency for result in sink.results]
    assert all(np.isfinite(saliency).all() for saliency in maps)
    held = sum(a is b for a, b in itertools.pairwise(maps))
    assert held == 4
    assert summary.frames + summary.dropped == 40


def test_gap_of_the_source_does_not_count_as_time_without_valid_maps(status: Status) -> None:
    class PausingCamera(ScriptedCamera):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                time.sleep(0.8 if frame.index == 10 else 0)
                yield replace(frame, capture_s=time.monotonic())

    settings = LiveSettings(None, None, stall_s=0.6)
    summary = run_pipeline(
        PausingCamera(range(20)), ScriptedModel(nan=[10]), [], status=status, live=settings
    )
    assert summary.held == 1
    assert summary.faults == {"engine": 1}
    assert summary.frames + summary.dropped == 20


def test_missing_and_repeated_frames_are_reported(status: Status) -> None:
    sink = RecordingSink()
    summary = run_live(ScriptedCamera([0, 1, 2, 5, 6, 6, 4, 7, 8]), ScriptedModel(), status, [sink])
    assert sink.indices == sorted(set(sink.indices) - {3, 4})
    assert summary.frames + summary.dropped == 9
    assert summary.dropped >= 2
    assert summary.faults == {"frames": 1}, "all within one episode"


def test_frames_get_their_arrival_time_when_the_clock_of_the_source_jumps(status: Status) -> None:
    sink = RecordingSink()
    stamp = lambda index, now: now + (3600 if 5 <= index < 10 else 0)  # noqa: E731
    summary = run_live(ScriptedCamera(range(20), stamp=stamp), ScriptedModel(), status, [sink])
    assert summary.faults == {"stamps": 1}
    assert all(0 <= result.latency_ms < 600_000 for result in sink.results)


def test_change_of_the_frame_size_is_reported_and_survived(status: Status) -> None:
    sink = RecordingSink()
    small = cv2.resize(IMAGE, (80, 60))
    source = ScriptedCamera(range(20), image=lambda index: small if 5 <= index < 10 else IMAGE)
    summary = run_live(source, ScriptedModel(), status, [sink])
    assert summary.frames + summary.dropped == 20
    assert summary.faults == {"size": 1}


def test_run_is_stalled_while_the_graph_takes_no_frame(status: Status) -> None:
    small = cv2.resize(IMAGE, (80, 60))
    model, states = ScriptedModel(release="skd-64"), list[str]()  # alignment would replace `prepare`
    prepare = model.prepare

    def prepare_one_size(image: np.ndarray) -> PreparedInput:
        if image.shape != IMAGE.shape:
            raise InputError("frames of 160x90 only")
        return prepare(image)

    model.prepare = prepare_one_size
    source = ScriptedCamera(range(60), image=lambda index: small if 5 <= index < 55 else IMAGE)
    hooks = RunHooks(lambda result: states.append(status.state), lambda: states.append(status.state))
    summary = run_live(source, model, status, hooks=hooks)
    assert summary.faults == {"size": 1, "frame": 1}
    assert summary.frames + summary.dropped == 60
    entered = [state for state, _ in itertools.groupby(states) if state != "starting"]
    assert entered == ["running", "stalled", "running", "stopped"]


def test_jump_of_the_system_clock_is_reported_once(status: Status, caplog: pytest.LogCaptureFixture) -> None:
    offset = {"s": 0.0}
    monitor = ClockMonitor(status, lambda: time.time() + offset["s"])
    for offset["s"] in (0.5, 86400.0, 86400.2):
        monitor.check()
    assert status.snapshot().faults == {"clock": 1}
    assert "jumped by +86399.5 s" in caplog.text
