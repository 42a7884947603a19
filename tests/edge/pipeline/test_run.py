"""The scheduling, with the shipped student and with sources and sinks whose delays the test sets."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame, GraphInput, Tensor
from edge.inference.interface.runner import Runner
from edge.inference.runner_factory import open_runner
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.pipeline.run import LiveSettings, run_pipeline
from edge.postprocessing.result import Result
from edge.release.manifest import load_release


class Clip:
    """A source of given images."""

    name = "clip"
    fps = 10.0

    def __init__(self, images: np.ndarray, delay_s: float = 0, fails_at: int | None = None) -> None:
        self.images, self.delay_s, self.fails_at = images, delay_s, fails_at
        self.length: int | None = len(images)
        self.height, self.width = images.shape[1:3] if len(images) else (0, 0)

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self.images):
            if index == self.fails_at:
                raise InputError("the camera fell off")
            time.sleep(self.delay_s)
            yield Frame(index, index / 10, image)

    def close(self) -> None:
        pass


class RecordingSink:
    """A sink that keeps what it is given."""

    def __init__(self, delay_s: float = 0, fails_at: int | None = None) -> None:
        self.results: list[Result] = []
        self.ended = ""
        self.delay_s, self.fails_at = delay_s, fails_at

    def write(self, result: Result) -> None:
        if result.frame.index == self.fails_at:
            raise InputError("the disk is full")
        time.sleep(self.delay_s)
        self.results.append(result)

    def finish(self) -> None:
        if self.fails_at == -1:
            raise InputError("the disk is full")
        self.ended += "finished "

    def commit(self) -> None:
        self.ended += "committed"

    def discard(self) -> None:
        self.ended += "discarded"


@pytest.fixture(scope="module")
def model() -> Iterator[SaliencyModel]:
    opened = SaliencyModel(None, "fp32")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("aerogaze")]


def test_every_frame_in_order_to_every_sink(model: SaliencyModel, flight: np.ndarray) -> None:
    fast, slow = RecordingSink(), RecordingSink(delay_s=0.005)
    images = np.concatenate([flight] * 4)
    model.blur = 0.0  # as `compute_clip_maps` are
    summary = run_pipeline(Clip(images), model, [fast, slow])
    expected = compute_clip_maps(model, images)
    for sink in (fast, slow):
        assert [result.frame.index for result in sink.results] == list(range(48))
        np.testing.assert_array_equal([result.saliency for result in sink.results], expected)
        assert sink.ended == "finished committed"
    assert summary.frames == 48
    assert not summary.interrupted


def test_decoding_and_output_overlap(model: SaliencyModel, flight: np.ndarray) -> None:
    decoded, written = threading.Event(), threading.Event()

    class Ahead(Clip):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                if frame.index == 3:
                    decoded.set()  # while the sink still holds the first result
                    assert written.wait(10), "the sink waits for the source"
                yield frame

    class Holding(RecordingSink):
        def write(self, result: Result) -> None:
            assert decoded.wait(10), "the source waits for the sink"
            super().write(result)
            written.set()

    sink = Holding()
    assert run_pipeline(Ahead(flight), model, [sink]).frames == len(sink.results) == 12


class Overlapping:
    """The student's runner as one that computes when a map is collected; it keeps what came when."""

    depth, description = 2, "overlapping"

    def __init__(self, runner: Runner) -> None:
        self.runner, self.flying, self.most = runner, deque[dict[str, GraphInput]](), 0
        self.infer, self.reset, self.close = runner.infer, runner.reset, runner.close

    def submit(self, feed: Mapping[str, GraphInput]) -> None:
        self.flying.append({name: values.copy() for name, values in feed.items()})
        self.most = max(self.most, len(self.flying))
        assert self.most <= self.depth

    def collect(self) -> dict[str, Tensor]:
        time.sleep(0.005)
        return self.runner.infer(self.flying.popleft())


@pytest.mark.parametrize("live", [False, True])
def test_two_frames_of_a_file_are_in_flight_and_one_of_a_camera(flight: np.ndarray, live: bool) -> None:
    release, sink, plain = load_release(None), RecordingSink(), RecordingSink()
    one_by_one = SaliencyModel(release, "fp32")
    run_pipeline(Clip(flight), one_by_one, [plain])
    one_by_one.close()
    runner = Overlapping(open_runner(release, "fp32"))
    model = SaliencyModel.from_runner(release, "fp32", runner)
    summary = run_pipeline(Clip(flight, 0.05 * live), model, [sink], live=LiveSettings() if live else None)
    if not live:
        model.close()
    assert runner.most == (1 if live else 2)
    assert not runner.flying
    assert summary.frames == len(sink.results) > 0
    if live:  # which drops what comes while it computes
        return
    for ours, expected in zip(sink.results, plain.results, strict=True):
        assert ours.frame.index == expected.frame.index
        np.testing.assert_allclose(ours.saliency, expected.saliency, atol=1e-6)


def test_latency_counts_from_the_decoded_frame(model: SaliencyModel, flight: np.ndarray) -> None:
    sink = RecordingSink(delay_s=0.01)
    summary = run_pipeline(Clip(flight), model, [sink])
    latencies = [result.latency_ms for result in sink.results]
    assert min(latencies) > 0
    assert max(latencies) > 10  # those behind waited for the slow sink
    assert summary.latency_p50_ms == pytest.approx(np.median(latencies))
    assert 0 < summary.first_map_s < summary.seconds


def test_it_stops_where_asked(model: SaliencyModel, flight: np.ndarray) -> None:
    sink = RecordingSink()
    assert run_pipeline(Clip(flight), model, [sink], max_frames=5).frames == 5
    assert len(sink.results) == 5


def test_stopped_before_its_first_frame_it_is_interrupted_and_not_at_fault(
    model: SaliencyModel, flight: np.ndarray
) -> None:
    sink, stop = RecordingSink(), threading.Event()
    stop.set()
    summary = run_pipeline(Clip(flight), model, [sink], stop=stop)
    assert (summary.frames, summary.interrupted, summary.wrote) == (0, True, ())
    assert sink.ended == "discarded"


def test_an_interrupt_keeps_what_was_done(model: SaliencyModel, flight: np.ndarray) -> None:
    sink, stop = RecordingSink(), threading.Event()

    def third(result: Result) -> None:
        if result.frame.index == 2:
            stop.set()

    summary = run_pipeline(Clip(flight), model, [sink], on_result=third, stop=stop)
    assert summary.interrupted
    assert summary.frames == len(sink.results) == 3
    assert sink.ended == "finished committed"


def test_a_source_that_fails_leaves_nothing(model: SaliencyModel, flight: np.ndarray) -> None:
    sinks = [RecordingSink(), RecordingSink()]
    with pytest.raises(InputError, match="camera fell off"):
        run_pipeline(Clip(flight, fails_at=7), model, sinks)
    assert [sink.ended for sink in sinks] == ["discarded"] * 2


@pytest.mark.parametrize("fails_at", [7, 11, -1])
def test_a_sink_fails_alone(model: SaliencyModel, flight: np.ndarray, fails_at: int) -> None:
    first, bad, last = sinks = [RecordingSink(), RecordingSink(fails_at=fails_at), RecordingSink()]
    summary = run_pipeline(Clip(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["finished committed", "discarded", "finished committed"]
    assert len(first.results) == len(last.results) == summary.frames == 12
    assert summary.failed == ("sink:recording-2: the disk is full",)
    assert summary.wrote == ("sink:recording", "sink:recording-3")
    assert summary.faults == {"sink:recording-2": 1}, "told when it happens"
    assert len(bad.results) == (12 if fails_at < 0 else fails_at)


@pytest.mark.parametrize("fails_at", [7, 11, -1])
def test_where_every_sink_fails_the_run_does(model: SaliencyModel, flight: np.ndarray, fails_at: int) -> None:
    sinks = [RecordingSink(fails_at=fails_at), RecordingSink(fails_at=0)]
    with pytest.raises(InputError, match="disk is full"):
        run_pipeline(Clip(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["discarded"] * 2


def test_an_interrupt_while_a_sink_finishes_leaves_nothing_of_it(
    model: SaliencyModel, flight: np.ndarray
) -> None:
    class Pressed(RecordingSink):
        def finish(self) -> None:
            raise KeyboardInterrupt

    sinks = [RecordingSink(), Pressed(), RecordingSink()]
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Clip(flight), model, sinks)
    assert [sink.ended for sink in sinks] == ["finished committed", "discarded", "discarded"]


def test_no_frames_is_an_error(model: SaliencyModel) -> None:
    sink = RecordingSink()
    with pytest.raises(InputError, match="gave no frame"):
        run_pipeline(Clip(np.empty((0, 4, 4, 3), np.uint8)), model, [sink])
    assert sink.ended == "discarded"
