"""Run of a pipeline: decoding, inference and output overlap, each on threads of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge.core.errors import InputError
from edge.core.frames import Source
from edge.core.run_status import RunInfo, Status
from edge.core.stage_times import ENGINE, PREPARE, StageTimes, limiting_stage
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.latency_reservoir import LatencyReservoir
from edge.pipeline.session_state import RunContext
from edge.pipeline.sink_worker import SinkGroup
from edge.pipeline.supervisor import TICK_INTERVAL_S, LiveSettings, Supervisor
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink


@dataclass(frozen=True)
class RunHooks:
    """Functions that a run calls.

    Attributes:
        on_result: Called with each result, on the inference thread.
        on_tick: Called every `TICK_INTERVAL_S`, on the caller's thread.
    """

    on_result: Callable[[Result], None] = lambda result: None
    on_tick: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run; times are in seconds from its start, when the model is already open.

    Attributes:
        frames: Number of results.
        seconds: Duration of the run.
        fps: Results per second.
        first_map_s: Time until the first result.
        latency_p50_ms: Median latency.
        latency_p99_ms: 99th percentile of the latency.
        prepare_ms: Mean time that preparing a frame takes.
        inference_ms: Mean time that the engine works on a frame.
        waiting_ms: The rest of the mean latency: the time that a frame waits between the stages.
        busy: Share (0 to 1) of the run that each stage works, the busiest first; see `StageTimes`.
        limited_by: Stage that limits the rate; None if no stage works most of the time.
        interrupted: The run was stopped.
        dropped: Frames of a live run that were captured and not run.
        held: Results of a live run that repeat the last valid map.
        faults: Number of fault episodes by kind.
        failed: Sinks whose output is incomplete, each with the reason.
        wrote: Sinks whose output is at its final path.
        delay_frames: Number of frames by which maps lag behind their frame.
        window_frames: Number of frames that the network takes together.
        frame_rate: Frames per second that both are counted in: those of a file, the results of a live run.
    """

    frames: int
    seconds: float
    fps: float
    first_map_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    prepare_ms: float
    inference_ms: float
    waiting_ms: float
    busy: dict[str, float]
    limited_by: str | None
    interrupted: bool
    dropped: int
    held: int
    faults: dict[str, int]
    failed: tuple[str, ...]
    wrote: tuple[str, ...]
    delay_frames: int = 0
    window_frames: int = 1
    frame_rate: float = 0.0


class _Delivery:
    """Counts each result and passes it to the sinks and the caller."""

    def __init__(
        self, sinks: SinkGroup, status: Status, times: StageTimes, on_result: Callable[[Result], None]
    ) -> None:
        self._sinks, self._status, self._times, self._on_result = sinks, status, times, on_result
        self._latency_ms = 0.0
        self.started_s, self.first_map_s = time.monotonic(), 0.0
        self.latencies = LatencyReservoir()

    def __call__(self, result: Result) -> None:
        self.first_map_s = self.first_map_s or time.monotonic() - self.started_s
        self._status.set_state("running")
        self._status.count_result(result.latency_ms)
        self.latencies.add(result.latency_ms)
        self._latency_ms += result.latency_ms
        self._sinks.raise_if_all_failed()
        self._sinks.put(result)
        self._on_result(result)

    def summarize(self, source: Source, model: SaliencyModel, interrupted: bool, live: bool) -> RunSummary:
        """Return the summary of the run."""
        seconds = time.monotonic() - self.started_s
        snapshot = self._status.snapshot()
        p50_ms, p99_ms = self.latencies.quantiles()
        prepare_ms, inference_ms = self._times.mean_ms(PREPARE), self._times.mean_ms(ENGINE)
        mean_ms = self._latency_ms / max(1, self.latencies.count)
        busy = self._times.busy_shares(seconds)
        fps = self.latencies.count / seconds
        clip = model.release.clip
        return RunSummary(
            frames=self.latencies.count,
            seconds=seconds,
            fps=fps,
            first_map_s=self.first_map_s,
            latency_p50_ms=p50_ms,
            latency_p99_ms=p99_ms,
            prepare_ms=prepare_ms,
            inference_ms=inference_ms,
            waiting_ms=max(0.0, mean_ms - prepare_ms - inference_ms),
            busy=busy,
            limited_by=limiting_stage(busy, live),
            interrupted=interrupted,
            dropped=snapshot.dropped,
            held=snapshot.held,
            faults=snapshot.faults,
            failed=self._sinks.failures,
            wrote=self._sinks.committed,
            delay_frames=model.delay_frames,
            window_frames=clip.frames if clip else 1,
            frame_rate=fps if live else source.fps,
        )


def run_pipeline(
    source: Source,
    model: SaliencyModel,
    sinks: Sequence[Sink],
    *,
    max_frames: int | None = None,
    live: LiveSettings | None = None,
    status: Status | None = None,
    stop: threading.Event | None = None,
    hooks: RunHooks | None = None,
) -> RunSummary:
    """Run the model on the frames of a source, and pass each result in order to every sink.

    An error of one sink does not affect the others. A run over a file runs every frame and waits for slow
    sinks. At the end it commits the outputs of the sinks that did not fail. If the source, the engine or all
    sinks fail, it discards all outputs. A live run runs the newest frame, waits for no sink and opens failed
    parts again. It commits every complete output even if it ends with an error, unless there was no result.

    Args:
        source: Source of frames. A live run closes it.
        model: Opened model. A live run closes it.
        sinks: Sinks; the run commits or discards them.
        max_frames: Number of frames after which the run ends.
        live: Settings of a live run; None for a run over a file.
        status: Status to update; None creates one.
        stop: Event that ends the run early and keeps the results so far.
        hooks: Functions to call during the run.

    Raises:
        InputError: The source, or all sinks of a run over a file, failed. A map is not finite. The source
            gave no frame, and the run was not stopped before the first one.
        CheckError: In a live run, drivers or engines hang again and again, or the GPU is lost: the process
            has to be restarted.
    """
    hooks = hooks or RunHooks()
    status = status or Status(RunInfo(model.release.name, model.precision, model.engine, source.name))
    stop = stop or threading.Event()
    times = StageTimes()
    group = SinkGroup(sinks, status, times, live is not None)
    delivery = _Delivery(group, status, times, hooks.on_result)
    stall_s = live.stall_s if live else float("inf")
    context = RunContext(delivery, status, stop, max_frames, live is not None, stall_s, times)
    supervisor = Supervisor(context, live or LiveSettings(), hooks.on_tick)
    try:
        group.start()
        supervisor.run(source, model)
        status.set_state("stopped")  # before the sinks end: some of them report it
        hooks.on_tick()  # before the sinks end: that can take some time
        if not delivery.latencies.count and not stop.is_set():
            raise InputError(f"{source.name} gave no frame; expected at least one")
        group.close(commit=delivery.latencies.count > 0)
    except BaseException:
        status.set_state("stopped")
        # A live recording cannot be repeated: it is committed even after an error.
        group.abort(commit=live is not None and delivery.latencies.count > 0)
        raise
    return delivery.summarize(source, model, interrupted=stop.is_set(), live=live is not None)


def run_together(
    runs: Mapping[str, Callable[[], RunSummary]], on_tick: Callable[[], None]
) -> dict[str, RunSummary | BaseException]:
    """Run the pipelines of several cameras, each on a thread of its own, until all have ended.

    The failure of one does not affect the others.

    Args:
        runs: Function that runs a pipeline to its end, by the name of the camera.
        on_tick: Called every `TICK_INTERVAL_S`, on the caller's thread.

    Returns:
        Summary or error of each pipeline, by the name of the camera.
    """
    outcomes: dict[str, RunSummary | BaseException] = {}

    def run(camera: str) -> None:
        try:
            outcomes[camera] = runs[camera]()
        except BaseException as error:  # also SystemExit, which would silently end this thread only
            outcomes[camera] = error

    # Daemons: a second Ctrl-C ends the process at once, also while one of them hangs in a driver.
    threads = [
        threading.Thread(target=run, args=(camera,), name=f"aerogaze-run-{camera}", daemon=True)
        for camera in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            on_tick()
            thread.join(TICK_INTERVAL_S)
    return {camera: outcomes[camera] for camera in runs}
