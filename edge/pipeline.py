"""Frames in, results out: decoding, inference and output overlap, each on threads of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from edge.errors import InputError
from edge.frames import Frame, Input, Source, Tensor
from edge.model import SaliencyModel
from edge.peaks import find_peaks
from edge.sinks import Result, Sink

AHEAD = 4
"""Frames decoded ahead, and results waiting at each sink: enough to overlap, few enough to be small."""


@dataclass(frozen=True)
class Prepared:
    """A decoded frame with the student's input made from it, and when decoding ended."""

    frame: Frame
    tensor: Input
    decoded_at: float


@dataclass(frozen=True)
class Summary:
    """What a run did, in seconds from its start: the model is open by then. `fps` is frames / seconds."""

    frames: int
    seconds: float
    fps: float
    first_map_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    interrupted: bool


def run(
    source: Source,
    model: SaliencyModel,
    sinks: Sequence[Sink],
    max_frames: int | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    stop: threading.Event | None = None,
) -> Summary:
    """Run the model over the source, every frame in order, each result to every sink.

    All sinks are committed at the end. Setting `stop` ends the source early and keeps what was
    done; after any error all sinks are discarded.

    Raises:
        InputError: from the source, a sink, or a map that is not finite; no frame at all.
    """
    started = time.perf_counter()
    stop = stop or threading.Event()
    latencies: list[float] = []
    first_map_s = 0.0
    lanes: list[_Lane] = []
    model.reset(source.fps)
    reader = _Reader(source, model.prepare, max_frames)
    try:
        lanes.extend(map(_Lane, sinks))  # one by one: what was started is ended below
        for result in _infer(model, reader):
            first_map_s = first_map_s or time.perf_counter() - started
            latencies.append(result.latency_ms)
            for lane in lanes:
                lane.put(result)
            on_result(result)
            if stop.is_set():
                break
        if not latencies:
            raise InputError(f"{source.name} gave no frame; expected at least one")
        for lane in lanes:
            lane.end()
        for sink in sinks:  # all that can fail, before any output is put in its place
            sink.finish()
        for sink in sinks:
            sink.commit()
    except BaseException:
        for lane in lanes:
            lane.abandon()
        with ExitStack() as discards:  # each one, whatever another does
            for sink in sinks:
                discards.callback(sink.discard)
        raise
    finally:
        reader.close()
    seconds = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, [50, 99])
    return Summary(
        len(latencies),
        seconds,
        len(latencies) / seconds,
        first_map_s,
        float(p50),
        float(p99),
        stop.is_set(),
    )


def _infer(model: SaliencyModel, reader: _Reader) -> Iterator[Result]:
    waiting: deque[Prepared] = deque()
    last: Prepared | None = None
    for prepared in reader:
        last = prepared
        waiting.append(prepared)
        saliency = model.infer(prepared.tensor)
        if len(waiting) > model.release.delay_frames:
            yield _result(waiting.popleft(), saliency)
    while waiting and last is not None:  # at a clip's end the last frame is its own successor
        saliency = model.infer(last.tensor)
        yield _result(waiting.popleft(), saliency)


def _result(prepared: Prepared, saliency: Tensor) -> Result:
    frame = prepared.frame
    if not np.isfinite(saliency).all():
        raise InputError(f"the map of frame {frame.index} is not finite: the release or its engine is broken")
    latency_ms = (time.perf_counter() - prepared.decoded_at) * 1e3
    return Result(frame, saliency, find_peaks(saliency), latency_ms)


class _Reader:
    """Reads and prepares frames ahead, on a thread."""

    def __init__(self, source: Source, prepare: Callable[..., Input], max_frames: int | None) -> None:
        self._queue: queue.Queue[Prepared | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(source, prepare, max_frames), name="aerogaze-reader"
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Prepared]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self, source: Source, prepare: Callable[..., Input], max_frames: int | None) -> None:
        try:
            for frame in source:
                if frame.index == max_frames:
                    break
                decoded_at = time.perf_counter()
                if not self._put(Prepared(frame, prepare(frame.image), decoded_at)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Prepared | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


class _Lane:
    """A sink with a thread and a short queue: a slow sink holds a file run back, and loses nothing."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.Queue[Result | None] = queue.Queue(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, name=f"aerogaze-{type(sink).__name__}")
        self._thread.start()

    def put(self, result: Result) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(result)

    def end(self) -> None:
        self.abandon()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _write(self) -> None:
        while (result := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._sink.write(result)
                except BaseException as error:
                    self._error = error
