"""Live runs: the newest frame wins, no sink holds anything up, and what fails is opened again."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge.core.errors import CheckError, InputError
from edge.core.frames import Frame, GraphInput
from edge.core.run_status import RunInfo, Status
from edge.inference.cuda.backend import CudaError
from edge.pipeline.clock_monitor import ClockMonitor
from edge.pipeline.run import MAX_HANGING_SESSIONS, LiveSettings, RunSummary, run_pipeline
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink
from edge.sources.opencv_capture import CaptureSource, open_with_timeout
from tests.support.live_doubles import IMAGE, RecordingSink, ScriptedCamera, ScriptedModel


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    end = time.monotonic() + 5  # one that hung ends when its test lets it go
    while left := [t for t in threading.enumerate() if t.name.startswith("aerogaze")]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "fp32", "test", "camera"))


def live(
    source: ScriptedCamera,
    engine: ScriptedModel,
    status: Status,
    sinks: Sequence[Sink] = (),
    sources: Sequence[ScriptedCamera | Exception] = (),
    engines: Sequence[ScriptedModel] = (),
    stall_s: float = 0.6,
    **more: object,
) -> RunSummary:
    """Run live; what fails is replaced by the next of `sources` or `engines`, which may be errors."""
    to_open, to_run = iter(sources), iter(engines)

    def opened() -> ScriptedCamera:
        if isinstance(found := next(to_open), Exception):
            raise found
        return found

    plan = LiveSettings(opened, lambda: next(to_run), stall_s=stall_s, min_backoff_s=0.01, max_backoff_s=0.05)
    return run_pipeline(source, engine, sinks, status=status, live=plan, **more)  # type: ignore[arg-type]


def ids(sink: RecordingSink) -> list[int]:
    return [result.frame.index for result in sink.results]


def test_a_slow_engine_gets_the_newest_frames_and_every_drop_is_counted(status: Status) -> None:
    sink = RecordingSink()
    summary = live(ScriptedCamera(range(60)), ScriptedModel(delay_s=0.05), status, [sink])
    seen = ids(sink)
    assert seen == sorted(set(seen))
    assert summary.frames == len(seen)
    assert summary.frames + summary.dropped == 60
    assert 15 <= summary.dropped <= 50
    assert seen[-1] == 59
    assert summary.latency_p50_ms < 250  # in a queue it would be a second and more
    assert summary.faults == {}


def test_the_time_of_capture_travels_with_the_result(status: Status) -> None:
    sink = RecordingSink()
    before = time.monotonic()
    live(ScriptedCamera(range(20), stamp=lambda index, now: now - 0.2), ScriptedModel(), status, [sink])
    stamps = [result.frame.capture_s for result in sink.results]
    assert before - 0.2 < stamps[0] < stamps[-1] < time.monotonic() - 0.2
    assert all(result.latency_ms > 200 for result in sink.results)


def test_a_slow_sink_slows_nothing_and_loses_its_oldest_results(status: Status) -> None:
    fast, slow = RecordingSink(), RecordingSink(delay_s=0.15)
    summary = live(ScriptedCamera(range(80)), ScriptedModel(), status, [slow, fast])
    assert summary.frames + summary.dropped == 80
    assert summary.frames > 40
    assert len(ids(fast)) == summary.frames
    assert ids(slow) == sorted(set(ids(slow)))
    assert len(ids(slow)) < 20
    assert ids(slow)[-1] == ids(fast)[-1]
    assert summary.faults["sink:recording"] == 1
    assert (slow.ended, fast.ended, summary.failed) == ("committed", "committed", ())


@pytest.mark.parametrize("error", [InputError("the disk is full"), OSError("connection lost"), SystemExit(1)])
def test_a_failing_sink_fails_alone(status: Status, error: BaseException) -> None:
    good, bad = RecordingSink(), RecordingSink(fails={5: error, 6: error})
    summary = live(ScriptedCamera(range(40)), ScriptedModel(), status, [bad, good])
    assert good.ended == bad.ended == "committed"
    assert len(good.results) == summary.frames
    assert summary.faults == {"sink:recording": 1}
    if isinstance(error, InputError):  # it cannot go on: it gets no more, and what it has is kept
        assert len(bad.results) == 4
        assert summary.failed == ("sink:recording: the disk is full",)
    else:
        assert len(bad.results) == summary.frames - 2
        assert summary.failed == ()


def test_what_is_not_whole_at_the_end_is_discarded_alone(status: Status) -> None:
    good, bad = RecordingSink(), RecordingSink(whole=False)
    summary = live(ScriptedCamera(range(5)), ScriptedModel(), status, [bad, good])
    assert (bad.ended, good.ended) == ("discarded", "committed")
    assert summary.failed == ("sink:recording: half of it is missing",)


def test_a_camera_that_goes_is_opened_again_and_ids_go_on(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    sink, first = RecordingSink(), ScriptedCamera(range(10), fails="unplugged")
    gone = [ScriptedCamera([], fails="still unplugged") for _ in range(3)]
    summary = live(
        first,
        ScriptedModel(),
        status,
        [sink],
        [*gone, InputError("no such camera"), ScriptedCamera(range(10))],
    )
    assert summary.faults == {"source": 1}
    assert [record.getMessage() for record in caplog.records if "unplugged" in record.getMessage()] == [
        "source: unplugged"
    ]
    assert ids(sink)[-1] == 19
    assert summary.frames + summary.dropped == 20
    assert first.closed == gone[-1].closed == 1
    assert sink.ended == "committed"


def test_a_camera_that_hangs_is_left_and_opened_anew(status: Status) -> None:
    hang, sink = threading.Event(), RecordingSink()
    first = ScriptedCamera(range(5), hangs=hang)
    began = time.monotonic()
    summary = live(first, ScriptedModel(), status, [sink], [ScriptedCamera(range(5))])
    assert time.monotonic() - began < 3
    assert ids(sink)[-1] == 9
    assert summary.faults == {"source": 1}
    assert first.closed == 0  # a thread is still in it
    hang.set()
    time.sleep(0.1)
    assert first.closed == 1


def test_an_engine_that_hangs_is_left_and_its_late_map_is_not_told(status: Status) -> None:
    hung, sink = threading.Event(), RecordingSink()
    first, second = ScriptedModel(hangs_at=5, hung=hung), ScriptedModel()
    stop = threading.Event()

    def let_go(result: Result) -> None:
        if second.calls == 10:
            hung.set()
        if second.calls == 40:
            stop.set()

    summary = live(
        ScriptedCamera(range(1000)), first, status, [sink], engines=[second], on_result=let_go, stop=stop
    )
    assert ids(sink) == sorted(set(ids(sink)))
    assert len(sink.results) == summary.frames == 5 + 40
    assert summary.faults == {"engine": 1}
    assert first.closed == second.closed == 1


def test_an_engine_that_hangs_after_a_map_of_nan_is_left_too(status: Status) -> None:
    hung, sink, stop = threading.Event(), RecordingSink(), threading.Event()

    class HangsInReset(ScriptedModel):
        def reset(self, fps: float = 30.0) -> None:
            if self.calls > 0:
                hung.wait(20)
            super().reset(fps)

    second = ScriptedModel()

    def let_go(result: Result) -> None:
        if second.calls == 20:
            hung.set()
            stop.set()

    begun = time.monotonic()
    first = HangsInReset(nan=[5])
    summary = live(
        ScriptedCamera(range(1000)), first, status, [sink], engines=[second], on_result=let_go, stop=stop
    )
    assert time.monotonic() - begun < 10
    assert second.calls >= 20
    assert summary.faults == {"engine": 1}


def test_an_engine_that_fails_is_opened_again_and_named(status: Status) -> None:
    sink, second = RecordingSink(), ScriptedModel()
    second.engine = "another engine"
    summary = live(ScriptedCamera(range(60)), ScriptedModel(fails_at=7), status, [sink], engines=[second])
    assert summary.faults == {"engine": 1}
    assert status.snapshot().run_info.engine == "another engine"
    assert ids(sink)[-1] == 59
    assert summary.frames + summary.dropped == 60


def test_a_lost_gpu_ends_the_process_and_keeps_what_was_done(status: Status) -> None:
    class Lost(ScriptedModel):
        def submit(self, prepared: GraphInput) -> None:
            if self.calls == 7:
                raise CudaError("cuLaunchKernel", "CUDA_ERROR_ILLEGAL_ADDRESS")
            super().submit(prepared)

    sink, spare = RecordingSink(), ScriptedModel()
    with pytest.raises(CheckError, match=r"ILLEGAL_ADDRESS: .* this process has lost the GPU"):
        live(ScriptedCamera(range(60)), Lost(), status, [sink], engines=[spare])
    assert sink.ended == "committed"
    assert spare.calls == 0
    spare.close()


@pytest.mark.parametrize("part", ["source", "engine"])
def test_a_part_that_wants_the_process_to_exit_has_failed_as_by_any_error(status: Status, part: str) -> None:
    class Exits(ScriptedCamera):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            raise SystemExit(1)

    class ExitsToo(ScriptedModel):
        def submit(self, prepared: GraphInput) -> None:
            if self.calls == 3:
                raise SystemExit(1)
            super().submit(prepared)

    source = Exits(range(5)) if part == "source" else ScriptedCamera(range(40))
    engine = ScriptedModel() if part == "source" else ExitsToo()
    summary = live(source, engine, status, sources=[ScriptedCamera(range(5))], engines=[ScriptedModel()])
    assert summary.faults == {part: 1}
    assert summary.frames > 5


def test_a_log_that_nobody_reads_any_more_ends_nothing() -> None:
    code = (
        "import os, sys; from edge.cli.console import show_log; from edge.core.run_status import LOG\n"
        "with show_log(LOG):\n"
        "    for _ in range(3): LOG.warning('told')\n"
        "print('the summary')\n"
        "sys.exit(7)"
    )
    reads, writes = os.pipe()
    os.close(reads)
    try:
        ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writes, timeout=60)
    finally:
        os.close(writes)
    assert (ran.returncode, ran.stdout) == (7, b"the summary\n")


def test_the_last_good_map_is_held_over_nan_and_counted(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    sink = RecordingSink()
    summary = live(ScriptedCamera(range(40)), ScriptedModel(nan=[0, 10, 11, 12, 20]), status, [sink])
    assert summary.held == 4  # there was none to hold at first
    assert summary.faults == {"engine": 1}, "it came and went within an episode's quiet time"
    assert sum("not finite" in record.getMessage() for record in caplog.records) == 1
    maps = [result.saliency for result in sink.results]
    assert all(np.isfinite(saliency).all() for saliency in maps)
    held = sum(a is b for a, b in itertools.pairwise(maps))
    assert held == 4
    assert summary.frames + summary.dropped == 40


def test_an_engine_that_gives_nothing_but_nan_is_opened_again(status: Status) -> None:
    summary = live(
        ScriptedCamera(range(120)), ScriptedModel(nan=range(1, 10_000)), status, engines=[ScriptedModel()]
    )
    assert summary.faults == {"engine": 1}
    assert 10 < summary.held < 100


def test_a_gap_of_the_source_is_no_fault_of_the_engine(status: Status) -> None:
    class Gap(ScriptedCamera):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                time.sleep(0.8 if frame.index == 10 else 0)
                yield replace(frame, capture_s=time.monotonic())

    plan = LiveSettings(None, None, stall_s=0.6)
    summary = run_pipeline(Gap(range(20)), ScriptedModel(nan=[10]), [], status=status, live=plan)
    assert summary.held == 1
    assert summary.faults == {"engine": 1}
    assert summary.frames + summary.dropped == 20


def test_lost_and_doubled_frames_are_told(status: Status) -> None:
    sink = RecordingSink()
    summary = live(ScriptedCamera([0, 1, 2, 5, 6, 6, 4, 7, 8]), ScriptedModel(), status, [sink])
    assert ids(sink) == sorted(set(ids(sink)) - {3, 4})
    assert summary.frames + summary.dropped == 9
    assert summary.dropped >= 2
    assert summary.faults == {"frames": 1}, "an episode: they come and go within its quiet time"


def test_a_source_whose_clock_jumps_gets_stamps_of_arrival(status: Status) -> None:
    sink = RecordingSink()
    stamp = lambda index, now: now + (3600 if 5 <= index < 10 else 0)  # noqa: E731
    summary = live(ScriptedCamera(range(20), stamp=stamp), ScriptedModel(), status, [sink])
    assert summary.faults == {"stamps": 1}
    assert all(0 <= result.latency_ms < 1000 for result in sink.results)


def test_frames_may_change_their_size(status: Status) -> None:
    sink = RecordingSink()
    small = cv2.resize(IMAGE, (80, 60))
    source = ScriptedCamera(range(20), image=lambda index: small if 5 <= index < 10 else IMAGE)
    summary = live(source, ScriptedModel(), status, [sink])
    assert summary.frames + summary.dropped == 20
    assert summary.faults == {"size": 1}


def test_a_run_that_takes_no_frame_stands_still(status: Status) -> None:
    small = cv2.resize(IMAGE, (80, 60))

    engine, states = ScriptedModel(), list[str]()
    prepare = engine.prepare

    def strict(image: np.ndarray) -> GraphInput:
        if image.shape != IMAGE.shape:
            raise InputError("frames of 160x90 only")
        return prepare(image)

    engine.prepare = strict
    source = ScriptedCamera(range(60), image=lambda index: small if 5 <= index < 55 else IMAGE)
    summary = live(source, engine, status, on_tick=lambda: states.append(status.state))
    assert summary.faults == {"size": 1, "frame": 1}
    assert summary.frames + summary.dropped == 60
    seen = [state for state, _ in itertools.groupby(states) if state != "starting"]
    assert seen == ["running", "stalled", "running", "stopped"]


def test_a_jump_of_the_systems_clock_is_told(status: Status, caplog: pytest.LogCaptureFixture) -> None:
    ahead = {"s": 0.0}
    watch = ClockMonitor(status, lambda: time.time() + ahead["s"])
    for ahead["s"] in (0.5, 86400.0, 86400.2):
        watch.look()
    assert status.snapshot().faults == {"clock": 1}
    assert "jumped by +86399.5 s" in caplog.text


def test_threads_that_hang_again_and_again_end_the_run(status: Status) -> None:
    hang = threading.Event()
    cameras = [ScriptedCamera([0], hangs=hang) for _ in range(MAX_HANGING_SESSIONS)]
    sink, bad = RecordingSink(), RecordingSink(whole=False)
    with pytest.raises(CheckError, match="start aerogaze anew"):
        live(cameras[0], ScriptedModel(), status, [bad, sink], cameras[1:], stall_s=0.1)
    hang.set()
    assert (bad.ended, sink.ended) == ("discarded", "committed")
    assert sink.results


class Stuck(ScriptedCamera):
    """Its driver does not let go."""

    def __init__(self, ids: Sequence[int], stuck: threading.Event) -> None:
        super().__init__(ids, fails="gone")
        self.stuck = stuck

    def close(self) -> None:
        self.stuck.wait(20)


def test_a_driver_that_does_not_let_go_is_left_and_the_run_still_looked_after(status: Status) -> None:
    stuck, ticks = threading.Event(), []
    summary = live(
        Stuck(range(5), stuck),
        ScriptedModel(),
        status,
        sources=[ScriptedCamera(range(5))],
        on_tick=lambda: ticks.append(time.monotonic()),
    )
    assert not stuck.is_set()
    stuck.set()
    assert summary.faults == {"source": 1}
    assert summary.frames > 5
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 3


def test_drivers_that_do_not_let_go_again_and_again_end_the_run(status: Status) -> None:
    stuck = threading.Event()
    cameras = [Stuck([0], stuck) for _ in range(MAX_HANGING_SESSIONS)]
    with pytest.raises(CheckError, match="start aerogaze anew"):
        live(cameras[0], ScriptedModel(), status, sources=cameras[1:])
    stuck.set()


def test_opening_that_hangs_again_and_again_ends_the_run(status: Status) -> None:
    hang, stop, opened = threading.Event(), threading.Event(), []

    def late() -> ScriptedCamera:
        hang.wait(20)
        return ScriptedCamera([])

    def open_source() -> CaptureSource:
        opened.append(1)
        if len(opened) > 2 * MAX_HANGING_SESSIONS:
            stop.set()
        return open_with_timeout(0.05, late, "the camera gives no frame")  # type: ignore[arg-type]

    plan = LiveSettings(open_source, None, min_backoff_s=0.01, max_backoff_s=0.02)
    with pytest.raises(CheckError, match=r"the camera gives no frame \(no frame in 0.05 s\), 5 times"):
        run_pipeline(
            ScriptedCamera(range(3), fails="gone"), ScriptedModel(), [], status=status, live=plan, stop=stop
        )
    hang.set()
    assert len(opened) == MAX_HANGING_SESSIONS


def test_a_stop_while_nothing_comes_ends_it_and_keeps_what_was_done(status: Status) -> None:
    hang, stop, sink = threading.Event(), threading.Event(), RecordingSink()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    summary = live(ScriptedCamera(range(3), hangs=hang), ScriptedModel(), status, [sink], stop=stop)
    assert time.monotonic() - began < 2
    assert summary.interrupted
    assert summary.frames == 3
    assert sink.ended == "committed"
    hang.set()


def test_a_stop_before_the_first_map_writes_nothing_and_is_no_failure(status: Status) -> None:
    hang, stop, sink = threading.Event(), threading.Event(), RecordingSink(whole=False)
    threading.Timer(0.3, stop.set).start()
    summary = live(ScriptedCamera([], hangs=hang), ScriptedModel(), status, [sink], stop=stop)
    assert (summary.frames, summary.failed, summary.wrote, sink.ended) == (0, (), (), "discarded")
    hang.set()


@pytest.mark.parametrize("part", ["source", "engine"])
def test_a_stop_during_a_back_off_closes_each_part_once_and_keeps_what_was_done(
    status: Status, part: str
) -> None:
    stop, sink = threading.Event(), RecordingSink()
    camera = ScriptedCamera(range(5 if part == "source" else 1000), fails="gone")
    engine = ScriptedModel(fails_at=5 if part == "engine" else None)

    def stop_when_stalled() -> None:
        if status.snapshot().state == "stalled":
            stop.set()

    waiting = LiveSettings(ScriptedCamera, ScriptedModel, min_backoff_s=20)  # type: ignore[arg-type]
    summary = run_pipeline(
        camera, engine, [sink], status=status, live=waiting, stop=stop, on_tick=stop_when_stalled
    )
    assert summary.interrupted
    assert (camera.closed, engine.closed) == (1, 1)
    assert sink.ended == "committed"
    assert len(sink.results) == summary.frames > 0


@pytest.mark.parametrize("fails", [None, "no more"])
def test_a_sink_that_ends_sees_that_the_run_has_stopped(status: Status, fails: str | None) -> None:
    seen = []

    class Tells(RecordingSink):
        def commit(self) -> None:
            seen.append(status.snapshot().state)

    with contextlib.suppress(InputError):
        run_pipeline(
            ScriptedCamera(range(3), fails=fails),
            ScriptedModel(),
            [Tells()],
            status=status,
            live=LiveSettings(),
        )
    assert seen == ["stopped"]


@pytest.mark.parametrize(("frames", "ended"), [(3, "committed"), (0, "discarded")])
def test_what_cannot_be_opened_again_ends_the_run(status: Status, frames: int, ended: str) -> None:
    sink = RecordingSink()
    with pytest.raises(InputError, match="no more"):
        run_pipeline(
            ScriptedCamera(range(frames), fails="no more"),
            ScriptedModel(),
            [sink],
            status=status,
            live=LiveSettings(),
        )
    assert sink.ended == ended
