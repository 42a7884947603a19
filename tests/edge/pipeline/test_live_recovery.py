"""Live runs: parts that fail or hang are opened again, and the run ends when that does not help."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from edge.core.errors import CheckError, InputError
from edge.core.frames import Frame, PreparedInput
from edge.core.run_status import Status
from edge.inference.cuda.backend import CudaError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.supervisor import MAX_HANGING_SESSIONS, LiveSettings
from edge.postprocessing.result import Result
from edge.sources.opencv_capture import open_with_timeout
from tests.support.live_doubles import (
    HANG_LIMIT_S,
    INCOMPLETE,
    RecordingSink,
    ScriptedCamera,
    ScriptedModel,
    run_live,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_threads_left")


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


def test_engine_that_gives_only_nan_maps_is_opened_again(status: Status) -> None:
    spare = ScriptedModel()
    summary = run_live(
        ScriptedCamera(range(120)), ScriptedModel(nan=range(1, 10_000)), status, models=[spare]
    )
    assert summary.faults == {"engine": 1}
    assert 0 < summary.held < summary.frames
    assert spare.calls > 0


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

    def open_source() -> ScriptedCamera:
        opened.append(1)
        if len(opened) > 2 * MAX_HANGING_SESSIONS:
            stop.set()
        return open_with_timeout(0.05, open_late, "the camera gives no frame")

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
