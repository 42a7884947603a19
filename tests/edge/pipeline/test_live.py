"""Live runs: only the newest frame is run, no sink delays the run, and failed parts are opened again."""

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
from edge.core.frames import Frame, PreparedInput
from edge.core.run_status import RunInfo, Status
from edge.inference.cuda.backend import CudaError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.pipeline.clock_monitor import ClockMonitor
from edge.pipeline.run import RunHooks, RunSummary, run_pipeline
from edge.pipeline.sink_worker import QUEUE_SIZE
from edge.pipeline.supervisor import MAX_HANGING_SESSIONS, LiveSettings
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink
from edge.sources.opencv_capture import CaptureSource, open_with_timeout
from tests.support.live_doubles import HANG_LIMIT_S, IMAGE, RecordingSink, ScriptedCamera, ScriptedModel
from tests.support.waiting import aerogaze_threads, wait_until

INCOMPLETE = InputError("half of it is missing")


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    # A hanging thread ends when its test releases it.
    assert wait_until(lambda: not aerogaze_threads()), aerogaze_threads()


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "fp32", "test", "camera"))


def run_live(
    source: ScriptedCamera,
    model: ScriptedModel,
    status: Status,
    sinks: Sequence[Sink] = (),
    *,
    sources: Sequence[ScriptedCamera | Exception] = (),
    models: Sequence[ScriptedModel] = (),
    stall_s: float = 0.6,
    stop: threading.Event | None = None,
    hooks: RunHooks | None = None,
) -> RunSummary:
    """Run live; a failed part is replaced by the next of `sources` (which may be errors) or `models`."""
    next_sources, next_models = iter(sources), iter(models)

    def open_source() -> ScriptedCamera:
        if isinstance(source := next(next_sources), Exception):
            raise source
        return source

    settings = LiveSettings(
        open_source, lambda: next(next_models), stall_s=stall_s, min_backoff_s=0.01, max_backoff_s=0.05
    )
    return run_pipeline(source, model, sinks, live=settings, status=status, stop=stop, hooks=hooks)


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


def test_failed_camera_is_opened_again_and_indices_continue(
    status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    sink, first = RecordingSink(), ScriptedCamera(range(10), fails="unplugged")
    unplugged = [ScriptedCamera([], fails="still unplugged") for _ in range(3)]
    summary = run_live(
        first,
        ScriptedModel(),
        status,
        [sink],
        sources=[*unplugged, InputError("no such camera"), ScriptedCamera(range(10))],
    )
    assert summary.faults == {"source": 1}
    assert [record.getMessage() for record in caplog.records if "unplugged" in record.getMessage()] == [
        "source: unplugged"
    ]
    assert sink.indices[-1] == 19
    assert summary.frames + summary.dropped == 20
    assert first.closed == unplugged[-1].closed == 1
    assert sink.ended == "finished committed"


def test_hanging_camera_is_abandoned_and_opened_again(status: Status) -> None:
    hang, sink = threading.Event(), RecordingSink()
    first = ScriptedCamera(range(5), hangs=hang)
    started_s = time.monotonic()
    summary = run_live(first, ScriptedModel(), status, [sink], sources=[ScriptedCamera(range(5))])
    assert time.monotonic() - started_s < HANG_LIMIT_S / 2
    assert sink.indices[-1] == 9
    assert summary.faults == {"source": 1}
    assert first.closed == 0  # a thread still reads it
    hang.set()
    assert wait_until(lambda: first.closed == 1)


def test_hanging_engine_is_abandoned_and_its_late_map_is_not_delivered(status: Status) -> None:
    released, sink = threading.Event(), RecordingSink()
    first, second = ScriptedModel(hangs_at=5, released=released), ScriptedModel()
    stop = threading.Event()

    def release_hang(result: Result) -> None:
        if second.calls == 10:
            released.set()
        if second.calls == 40:
            stop.set()

    summary = run_live(
        ScriptedCamera(range(1000)),
        first,
        status,
        [sink],
        models=[second],
        stop=stop,
        hooks=RunHooks(on_result=release_hang),
    )
    assert sink.indices == sorted(set(sink.indices))
    assert len(sink.results) == summary.frames == 5 + 40
    assert summary.faults == {"engine": 1}
    assert first.closed == second.closed == 1


def test_engine_that_hangs_in_reset_after_a_nan_map_is_abandoned(status: Status) -> None:
    released, sink, stop = threading.Event(), RecordingSink(), threading.Event()

    class HangsInReset(ScriptedModel):
        def reset(self, fps: float = NOMINAL_FPS) -> None:
            if self.calls > 0:
                released.wait(HANG_LIMIT_S)
            super().reset(fps)

    second = ScriptedModel()

    def release_hang(result: Result) -> None:
        if second.calls == 20:
            released.set()
            stop.set()

    started_s = time.monotonic()
    first = HangsInReset(nan=[5])
    summary = run_live(
        ScriptedCamera(range(1000)),
        first,
        status,
        [sink],
        models=[second],
        stop=stop,
        hooks=RunHooks(on_result=release_hang),
    )
    assert time.monotonic() - started_s < HANG_LIMIT_S / 2
    assert second.calls >= 20
    assert summary.faults == {"engine": 1}


def test_failed_engine_is_opened_again_and_its_name_updated(status: Status) -> None:
    sink, second = RecordingSink(), ScriptedModel()
    second.engine = "another engine"
    summary = run_live(ScriptedCamera(range(60)), ScriptedModel(fails_at=7), status, [sink], models=[second])
    assert summary.faults == {"engine": 1}
    assert status.snapshot().run_info.engine == "another engine"
    assert sink.indices[-1] == 59
    assert summary.frames + summary.dropped == 60


class FailsUnknown(ScriptedModel):
    """Model whose GPU fails with an error that CUDA does not explain."""

    def submit(self, prepared: PreparedInput) -> None:
        if self.calls == 7:
            raise CudaError("cuLaunchKernel", "CUDA_ERROR_UNKNOWN")
        super().submit(prepared)


def test_engine_is_opened_again_after_two_unknown_cuda_errors(status: Status) -> None:
    sink, healthy = RecordingSink(), ScriptedModel()
    run_live(ScriptedCamera(range(60)), FailsUnknown(), status, [sink], models=[FailsUnknown(), healthy])
    assert sink.indices[-1] == 59
    assert healthy.calls > 0


def test_third_unknown_cuda_error_ends_the_run(status: Status) -> None:
    spares = [FailsUnknown() for _ in range(3)]
    with pytest.raises(CheckError, match=r"CUDA_ERROR_UNKNOWN: .*, 3 times; this process has lost the GPU"):
        run_live(ScriptedCamera(range(1000)), FailsUnknown(), status, [RecordingSink()], models=list(spares))
    assert [spare.calls > 0 for spare in spares] == [True, True, False]
    spares[-1].close()


def test_lost_gpu_ends_the_run_and_commits_the_outputs(status: Status) -> None:
    class LosesGpu(ScriptedModel):
        def submit(self, prepared: PreparedInput) -> None:
            if self.calls == 7:
                raise CudaError("cuLaunchKernel", "CUDA_ERROR_ILLEGAL_ADDRESS")
            super().submit(prepared)

    sink, spare = RecordingSink(), ScriptedModel()
    with pytest.raises(CheckError, match=r"ILLEGAL_ADDRESS: .* this process has lost the GPU"):
        run_live(ScriptedCamera(range(60)), LosesGpu(), status, [sink], models=[spare])
    assert sink.ended == "finished committed"
    assert spare.calls == 0
    spare.close()


@pytest.mark.parametrize("part", ["source", "engine"])
def test_part_that_raises_system_exit_is_opened_again(status: Status, part: str) -> None:
    class ExitingCamera(ScriptedCamera):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            raise SystemExit(1)

    class ExitingModel(ScriptedModel):
        def submit(self, prepared: PreparedInput) -> None:
            if self.calls == 3:
                raise SystemExit(1)
            super().submit(prepared)

    source = ExitingCamera(range(5)) if part == "source" else ScriptedCamera(range(40))
    model = ScriptedModel() if part == "source" else ExitingModel()
    summary = run_live(source, model, status, sources=[ScriptedCamera(range(5))], models=[ScriptedModel()])
    assert summary.faults == {part: 1}
    assert summary.frames > 5


def test_closed_standard_error_does_not_end_the_process() -> None:
    code = (
        "import os, sys; from edge.cli.console import show_log; from edge.core.run_status import LOG\n"
        "with show_log(LOG):\n"
        "    for _ in range(3): LOG.warning('a warning')\n"
        "print('the summary')\n"
        "sys.exit(7)"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write_end, timeout=60
        )
    finally:
        os.close(write_end)
    assert (result.returncode, result.stdout) == (7, b"the summary\n")


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


def test_engine_that_gives_only_nan_maps_is_opened_again(status: Status) -> None:
    spare = ScriptedModel()
    summary = run_live(
        ScriptedCamera(range(120)), ScriptedModel(nan=range(1, 10_000)), status, models=[spare]
    )
    assert summary.faults == {"engine": 1}
    assert 0 < summary.held < summary.frames
    assert spare.calls > 0


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


def test_run_ends_when_sources_hang_repeatedly(status: Status) -> None:
    hang = threading.Event()
    cameras = [ScriptedCamera([0], hangs=hang) for _ in range(MAX_HANGING_SESSIONS)]
    sink, bad = RecordingSink(), RecordingSink(finish_error=INCOMPLETE)
    with pytest.raises(CheckError, match="restart aerogaze"):
        run_live(cameras[0], ScriptedModel(), status, [bad, sink], sources=cameras[1:], stall_s=0.1)
    hang.set()
    assert (bad.ended, sink.ended) == ("discarded", "finished committed")
    assert sink.results


class HangsInClose(ScriptedCamera):
    """Camera that fails, and whose driver hangs in `close` until `released` is set."""

    def __init__(self, indices: Sequence[int], released: threading.Event) -> None:
        super().__init__(indices, fails="gone")
        self.released = released

    def close(self) -> None:
        self.released.wait(HANG_LIMIT_S)


def test_run_continues_while_a_driver_hangs_in_close(status: Status) -> None:
    released, ticks = threading.Event(), []
    summary = run_live(
        HangsInClose(range(5), released),
        ScriptedModel(),
        status,
        sources=[ScriptedCamera(range(5))],
        hooks=RunHooks(on_tick=lambda: ticks.append(time.monotonic())),
    )
    assert not released.is_set()
    released.set()
    assert summary.faults == {"source": 1}
    assert summary.frames > 5
    assert max(b - a for a, b in itertools.pairwise(ticks)) < HANG_LIMIT_S / 2


def test_run_ends_when_drivers_hang_repeatedly_in_close(status: Status) -> None:
    released = threading.Event()
    cameras = [HangsInClose([0], released) for _ in range(MAX_HANGING_SESSIONS)]
    with pytest.raises(CheckError, match="restart aerogaze"):
        run_live(cameras[0], ScriptedModel(), status, sources=cameras[1:])
    released.set()


def test_run_ends_when_opening_hangs_repeatedly(status: Status) -> None:
    hang, stop, opened = threading.Event(), threading.Event(), []

    def open_late() -> ScriptedCamera:
        hang.wait(HANG_LIMIT_S)
        return ScriptedCamera([])

    def open_source() -> CaptureSource:
        opened.append(1)
        if len(opened) > 2 * MAX_HANGING_SESSIONS:
            stop.set()
        return open_with_timeout(0.05, open_late, "the camera gives no frame")  # type: ignore[arg-type]

    settings = LiveSettings(open_source, None, min_backoff_s=0.01, max_backoff_s=0.02)
    with pytest.raises(CheckError, match=r"the camera gives no frame \(no frame in 0.05 s\), 5 times"):
        run_pipeline(
            ScriptedCamera(range(3), fails="gone"),
            ScriptedModel(),
            [],
            status=status,
            live=settings,
            stop=stop,
        )
    hang.set()
    assert len(opened) == MAX_HANGING_SESSIONS


def test_stop_while_the_source_hangs_ends_the_run_and_commits_the_outputs(status: Status) -> None:
    hang, stop = threading.Event(), threading.Event()

    class StoppingSink(RecordingSink):
        """Sink that stops the run when it gets the camera's last frame."""

        def write(self, result: Result) -> None:
            super().write(result)
            if result.frame.index == 2:
                stop.set()

    sink = StoppingSink()
    started_s = time.monotonic()
    summary = run_live(ScriptedCamera(range(3), hangs=hang), ScriptedModel(), status, [sink], stop=stop)
    assert time.monotonic() - started_s < HANG_LIMIT_S / 2
    assert summary.interrupted
    assert summary.frames + summary.dropped == 3
    assert [result.frame.index for result in sink.results][-1] == 2
    assert sink.ended == "finished committed"
    hang.set()


def test_stop_before_the_first_map_writes_nothing_and_is_no_failure(status: Status) -> None:
    hang, stop, sink = threading.Event(), threading.Event(), RecordingSink(finish_error=INCOMPLETE)
    threading.Timer(0.3, stop.set).start()
    summary = run_live(ScriptedCamera([], hangs=hang), ScriptedModel(), status, [sink], stop=stop)
    assert (summary.frames, summary.failed, summary.wrote, sink.ended) == (0, (), (), "discarded")
    hang.set()


@pytest.mark.parametrize("part", ["source", "engine"])
def test_stop_during_back_off_closes_each_part_once_and_commits_the_outputs(
    status: Status, part: str
) -> None:
    stop, sink = threading.Event(), RecordingSink()
    camera = ScriptedCamera(range(5 if part == "source" else 1000), fails="gone")
    model = ScriptedModel(fails_at=5 if part == "engine" else None)

    def stop_when_stalled() -> None:
        if status.snapshot().state == "stalled":
            stop.set()

    settings = LiveSettings(ScriptedCamera, ScriptedModel, min_backoff_s=20)  # type: ignore[arg-type]
    hooks = RunHooks(on_tick=stop_when_stalled)
    summary = run_pipeline(camera, model, [sink], status=status, live=settings, stop=stop, hooks=hooks)
    assert summary.interrupted
    assert (camera.closed, model.closed) == (1, 1)
    assert sink.ended == "finished committed"
    assert len(sink.results) == summary.frames > 0


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


@pytest.mark.parametrize(("frames", "ended"), [(3, "finished committed"), (0, "discarded")])
def test_run_ends_when_a_failed_part_cannot_be_opened_again(status: Status, frames: int, ended: str) -> None:
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
