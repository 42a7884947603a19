"""Runs over files with the shipped student, and with sources and sinks whose delays the test sets."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame, GraphInput, Tensor
from edge.core.stage_times import limiting_stage
from edge.inference.interface.runner import Runner
from edge.inference.runner_factory import open_runner
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.release.manifest import load_release
from tests.support.live_doubles import RecordingSink
from tests.support.waiting import aerogaze_threads

DISK_FULL = InputError("the disk is full")


class ClipSource:
    """Source that yields given images, slowly or until it fails at one of them."""

    name = "clip"
    fps = 10.0

    def __init__(self, images: np.ndarray, delay_s: float = 0, fails_at: int | None = None) -> None:
        self.images, self.delay_s, self.fails_at = images, delay_s, fails_at
        self.length: int | None = len(images)
        self.height, self.width = images.shape[1:3] if len(images) else (0, 0)

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self.images):
            if index == self.fails_at:
                raise InputError("the camera failed")
            time.sleep(self.delay_s)
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


def failing_sink(fails_at: int) -> RecordingSink:
    """Return a sink whose disk is full at a frame, or, for -1, when it finishes."""
    if fails_at < 0:
        return RecordingSink(finish_error=DISK_FULL)
    return RecordingSink(errors={fails_at + 1: DISK_FULL})


@pytest.fixture(scope="module")
def model() -> Iterator[SaliencyModel]:
    opened = SaliencyModel(None, "fp32")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert not aerogaze_threads()


def test_every_frame_reaches_every_sink_in_order(model: SaliencyModel, flight: np.ndarray) -> None:
    fast, slow = RecordingSink(), RecordingSink(delay_s=0.005)
    images = np.concatenate([flight] * 4)
    model.blur = 0.0  # like those of `compute_clip_maps`
    summary = run_pipeline(ClipSource(images), model, [fast, slow])
    expected = compute_clip_maps(model, images)
    for sink in (fast, slow):
        assert [result.frame.index for result in sink.results] == list(range(48))
        np.testing.assert_array_equal([result.saliency for result in sink.results], expected)
        assert sink.ended == "finished committed"
    assert summary.frames == 48
    assert not summary.interrupted


def test_decoding_and_output_overlap(model: SaliencyModel, flight: np.ndarray) -> None:
    decoded, written = threading.Event(), threading.Event()

    class PrefetchedSource(ClipSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                if frame.index == 3:
                    decoded.set()  # while the first result is still being written
                    assert written.wait(10), "the sink waits for the source"
                yield frame

    class BlockedSink(RecordingSink):
        def write(self, result: Result) -> None:
            assert decoded.wait(10), "the source waits for the sink"
            super().write(result)
            written.set()

    sink = BlockedSink()
    assert run_pipeline(PrefetchedSource(flight), model, [sink]).frames == len(sink.results) == 12


class OverlappingRunner:
    """Runner that computes when a map is collected; it counts the frames in flight.

    Attributes:
        flying: Inputs of the frames in flight.
        max_flying: Largest number of frames in flight so far.
    """

    depth, description = 2, "overlapping"

    def __init__(self, runner: Runner) -> None:
        self.runner, self.flying, self.max_flying = runner, deque[dict[str, GraphInput]](), 0
        self.infer, self.reset, self.close = runner.infer, runner.reset, runner.close

    def submit(self, feed: Mapping[str, GraphInput]) -> None:
        self.flying.append({name: values.copy() for name, values in feed.items()})
        self.max_flying = max(self.max_flying, len(self.flying))
        assert self.max_flying <= self.depth

    def collect(self) -> dict[str, Tensor]:
        time.sleep(0.005)
        return self.runner.infer(self.flying.popleft())


@pytest.mark.parametrize("live", [False, True])
def test_two_frames_of_a_file_and_one_of_a_camera_are_in_flight(flight: np.ndarray, live: bool) -> None:
    release, sink, sequential_sink = load_release("skd-64"), RecordingSink(), RecordingSink()
    sequential = SaliencyModel(release, "fp32")
    run_pipeline(ClipSource(flight), sequential, [sequential_sink])
    sequential.close()
    runner = OverlappingRunner(open_runner(release, "fp32"))
    model = SaliencyModel.from_runner(release, "fp32", runner)
    summary = run_pipeline(
        ClipSource(flight, 0.05 * live), model, [sink], live=LiveSettings() if live else None
    )
    if not live:
        model.close()
    assert runner.max_flying == (1 if live else 2)
    assert not runner.flying
    assert summary.frames == len(sink.results) > 0
    if live:  # frames that come during a computation are dropped
        return
    for actual, expected in zip(sink.results, sequential_sink.results, strict=True):
        assert actual.frame.index == expected.frame.index
        np.testing.assert_allclose(actual.saliency, expected.saliency, atol=1e-6)


def test_latency_counts_from_the_decoded_frame(model: SaliencyModel, flight: np.ndarray) -> None:
    sink = RecordingSink(delay_s=0.01)
    summary = run_pipeline(ClipSource(flight), model, [sink])
    latencies = [result.latency_ms for result in sink.results]
    assert min(latencies) > 0
    assert max(latencies) > 10  # the last frames waited for the slow sink
    assert summary.latency_p50_ms == pytest.approx(np.median(latencies))
    assert 0 < summary.first_map_s < summary.seconds


SLOW_S = 0.1
"""Duration of the slow stage per frame: far longer than any other stage takes, on busy machines too."""


class SlowRunner:
    """Runner that takes `SLOW_S` for each frame."""

    description = "slow"

    def __init__(self, runner: Runner) -> None:
        self.runner, self.reset, self.close = runner, runner.reset, runner.close

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        time.sleep(SLOW_S)
        return self.runner.infer(feed)


@pytest.mark.parametrize("slow", ["decode", "engine", "sink:recording", "source"])
def test_summary_names_the_slow_stage_and_separates_waiting_from_inference(
    flight: np.ndarray, slow: str
) -> None:
    release = load_release("skd-64")
    runner = open_runner(release, "fp32")
    slow_runner = SlowRunner(runner) if slow == "engine" else runner
    model = SaliencyModel.from_runner(release, "fp32", slow_runner)
    source = ClipSource(flight, SLOW_S * (slow in ("decode", "source")))
    sink = RecordingSink(delay_s=SLOW_S * (slow == "sink:recording"))
    live = LiveSettings() if slow == "source" else None
    summary = run_pipeline(source, model, [sink], live=live)
    if live is None:
        model.close()
    assert next(iter(summary.busy)) == slow, summary
    assert summary.limited_by == limiting_stage(dict(summary.busy), live is not None)
    assert summary.busy.keys() == {"source" if live else "decode", "prepare", "engine", "sink:recording"}
    mean_ms = np.mean([result.latency_ms for result in sink.results])
    assert summary.waiting_ms + summary.prepare_ms + summary.inference_ms == pytest.approx(mean_ms)
    if slow == "engine":
        assert summary.inference_ms > 1e3 * SLOW_S
        assert summary.waiting_ms > 1e3 * SLOW_S, "decoded frames wait in the queues"
    if slow == "sink:recording":
        assert summary.waiting_ms > summary.inference_ms


def test_run_ends_after_max_frames(model: SaliencyModel, flight: np.ndarray) -> None:
    sink = RecordingSink()
    assert run_pipeline(ClipSource(flight), model, [sink], max_frames=5).frames == 5
    assert len(sink.results) == 5


def test_run_stopped_before_its_first_frame_is_interrupted_without_an_error(
    model: SaliencyModel, flight: np.ndarray
) -> None:
    sink, stop = RecordingSink(), threading.Event()
    stop.set()
    summary = run_pipeline(ClipSource(flight), model, [sink], stop=stop)
    assert (summary.frames, summary.interrupted, summary.wrote) == (0, True, ())
    assert sink.ended == "discarded"


def test_stopped_run_commits_its_outputs(model: SaliencyModel, flight: np.ndarray) -> None:
    sink, stop = RecordingSink(), threading.Event()

    def stop_at_third_frame(result: Result) -> None:
        if result.frame.index == 2:
            stop.set()

    summary = run_pipeline(
        ClipSource(flight), model, [sink], hooks=RunHooks(on_result=stop_at_third_frame), stop=stop
    )
    assert summary.interrupted
    assert summary.frames == len(sink.results) == 3
    assert sink.ended == "finished committed"


def test_failing_source_discards_all_outputs(model: SaliencyModel, flight: np.ndarray) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    with pytest.raises(InputError, match="the camera failed"):
        run_pipeline(ClipSource(flight, fails_at=7), model, sinks)
    assert [sink.ended for sink in sinks] == ["discarded"] * 2


@pytest.mark.parametrize("fails_at", [7, 11, -1])
def test_failing_sink_does_not_affect_the_others(
    model: SaliencyModel, flight: np.ndarray, fails_at: int
) -> None:
    first, bad, last = sinks = [RecordingSink(), failing_sink(fails_at), RecordingSink()]
    summary = run_pipeline(ClipSource(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["finished committed", "discarded", "finished committed"]
    assert len(first.results) == len(last.results) == summary.frames == 12
    assert summary.failed == ("sink:recording-2: the disk is full",)
    assert summary.wrote == ("sink:recording", "sink:recording-3")
    assert summary.faults == {"sink:recording-2": 1}, "reported when it happens"
    assert len(bad.results) == (12 if fails_at < 0 else fails_at)


@pytest.mark.parametrize("fails_at", [7, 11, -1])
def test_run_fails_when_every_sink_fails(model: SaliencyModel, flight: np.ndarray, fails_at: int) -> None:
    sinks = [failing_sink(fails_at), failing_sink(0)]
    with pytest.raises(InputError, match="disk is full"):
        run_pipeline(ClipSource(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["discarded"] * 2


def test_interrupt_while_a_sink_finishes_discards_its_output(
    model: SaliencyModel, flight: np.ndarray
) -> None:
    class InterruptedSink(RecordingSink):
        def finish(self) -> None:
            raise KeyboardInterrupt

    sinks = [RecordingSink(), InterruptedSink(), RecordingSink()]
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(ClipSource(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["finished committed", "discarded", "discarded"]


def test_source_without_frames_is_an_error(model: SaliencyModel) -> None:
    sink = RecordingSink()
    with pytest.raises(InputError, match="gave no frame"):
        run_pipeline(ClipSource(np.empty((0, 4, 4, 3), np.uint8)), model, [sink])
    assert sink.ended == "discarded"
