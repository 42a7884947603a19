"""The TensorRT runner on the simulated GPU, which detects races, and on a real GPU if there is one."""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.inference.cuda.backend import BACKENDS, Cuda, CudaError
from edge.inference.engine_selection import read_plan, select_engine
from edge.inference.interface.runner import GraphSignature, PipelinedRunner
from edge.inference.onnxruntime.runner import OnnxRunner
from edge.inference.tensorrt.api import TensorRTEngine
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.cuda_graphs import MAX_GRAPHS
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from edge.metrics.saliency import cc
from edge.release.manifest import load_release, locate_release
from edge.release.release import PRECISIONS, Release
from tests.support.cuda_backends import load_tensorrt_or_skip, open_cuda_or_skip, require_gpu
from tests.support.simulated_gpu import OnnxEngine, RaceError, SimulatedCuda

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def release() -> Release:
    return load_release("skd-64")


@pytest.fixture
def feeds(release: Release, flight: np.ndarray) -> list[Feed]:
    return [{"frame": release.prepare(frame)} for frame in flight]


def with_lag(release: Release, lag_s: float) -> Release:
    """Return the release with another lag of its states."""
    states = tuple(dataclasses.replace(state, lag_s=lag_s) for state in release.states)
    return dataclasses.replace(release, states=states)


def expected_maps(
    release: Release, feeds: Sequence[Feed], precision: str = "fp32", fps: float = 10
) -> np.ndarray:
    """Return ONNX Runtime's maps for the graph that the engine was built from."""
    path = release.path(release.graph(precision, "stream", "tensorrt"))
    runner = OnnxRunner(path, stream_signature(release), threads=1)
    runner.reset(fps)
    maps = np.stack([runner.infer(feed)["saliency"].copy() for feed in feeds])
    runner.close()
    return maps


def infer_maps(runner: TensorRTRunner, feeds: Sequence[Feed], fps: float = 10) -> np.ndarray:
    """Return the runner's maps after a reset, one frame at a time."""
    runner.reset(fps)
    return np.stack([runner.infer(feed)["saliency"].copy() for feed in feeds])


def infer_pipelined(runner: TensorRTRunner, feeds: Sequence[Feed], fps: float = 10) -> np.ndarray:
    """Return the runner's maps after a reset, with as many frames in flight as possible."""
    runner.reset(fps)
    maps: list[np.ndarray] = []
    for index, feed in enumerate(feeds):
        submitted = {name: value.copy() for name, value in feed.items()}
        runner.submit(submitted)
        for value in submitted.values():
            value[...] = np.nan  # the caller may modify what it submitted
        if index >= runner.depth - 1:
            maps.append(runner.collect()["saliency"].copy())
    while len(maps) < len(feeds):
        maps.append(runner.collect()["saliency"].copy())
    return np.stack(maps)


def stream_signature(release: Release) -> GraphSignature:
    """Return the tensors of the release's stream graphs."""
    size = release.preprocessing.height, release.preprocessing.width
    return GraphSignature({"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, release.states)


def make_runner(cuda: Cuda, engine: Any, release: Release, **options: Any) -> TensorRTRunner:
    return TensorRTRunner(engine, cuda, stream_signature(release), RunnerOptions(**options))


def make_simulated_runner(
    cuda: SimulatedCuda, release: Release, precision: str = "fp32", **options: Any
) -> TensorRTRunner:
    path = release.path(release.graph(precision, "stream", "tensorrt"))
    return make_runner(cuda, OnnxEngine(str(path), cuda), release, **options)


@pytest.fixture(scope="session")
def built_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped release with engines for this machine's GPU."""
    require_gpu("tensorrt", "rtx")
    target, _ = load_tensorrt_or_skip()
    from export.engines.build import build_engines
    from export.engines.build_source import release_engine_source

    folder = tmp_path_factory.mktemp("built") / "release"
    shutil.copytree(locate_release("skd-64"), folder)
    copied = load_release(folder)
    list(build_engines(release_engine_source(copied), BuildTarget.parse(target), folder / "engines" / target))
    return folder


OpenRunner = Callable[..., TensorRTRunner]


@pytest.fixture(params=["simulated", *BACKENDS])
def open_runner(request: pytest.FixtureRequest, release: Release) -> Iterator[OpenRunner]:
    """Return a function that opens runners on the simulated GPU, and on the GPU with each backend."""
    runners: list[TensorRTRunner] = []

    def open_(release: Release = release, precision: str = "fp32", **options: Any) -> TensorRTRunner:
        if request.param == "simulated":
            runners.append(make_simulated_runner(SimulatedCuda(), release, precision, **options))
            return runners[-1]
        cuda = open_cuda_or_skip(request.param)
        built = load_release(request.getfixturevalue("built_release"))
        plan = select_engine(built, precision, "stream", "tensorrt").plan
        assert plan is not None
        engine = TensorRTEngine(read_plan(plan.path, plan.plan_sha256), plan.kind)
        runners.append(make_runner(cuda, engine, release, **options))
        return runners[-1]

    yield open_
    for runner in runners:
        runner.close()


TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.2}
LEAST_CC = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.99}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_maps_match_those_of_onnx_runtime(
    open_runner: OpenRunner, release: Release, feeds: list[Feed], precision: str
) -> None:
    maps, wanted = (
        infer_maps(open_runner(precision=precision), feeds),
        expected_maps(release, feeds, precision),
    )
    np.testing.assert_allclose(maps, wanted, atol=TOLERANCE[precision])
    similarities = [cc(a[0, 0], b[0, 0]) for a, b in zip(maps, wanted, strict=True)]
    assert min(similarities) > LEAST_CC[precision]


@pytest.mark.parametrize("zero_copy", [False, True])
def test_graph_replay_gives_the_maps_of_plain_launches(
    open_runner: OpenRunner, feeds: list[Feed], zero_copy: bool
) -> None:
    replayed, plain = (open_runner(cuda_graphs=graphs, zero_copy=zero_copy) for graphs in (True, False))
    assert "CUDA graph" in replayed.description
    assert "plain launches" in plain.description
    np.testing.assert_array_equal(infer_maps(replayed, feeds * 3), infer_maps(plain, feeds * 3))


def test_zero_copy_gives_the_maps_of_copies(open_runner: OpenRunner, feeds: list[Feed]) -> None:
    copied, shared = open_runner(zero_copy=False), open_runner(zero_copy=True)
    assert "copied" in copied.description
    assert "zero copy" in shared.description
    np.testing.assert_array_equal(infer_maps(shared, feeds), infer_maps(copied, feeds))


@pytest.mark.parametrize("zero_copy", [False, True])
def test_frames_in_flight_do_not_change_the_maps(
    open_runner: OpenRunner, feeds: list[Feed], zero_copy: bool
) -> None:
    runner = open_runner(zero_copy=zero_copy)
    assert isinstance(runner, PipelinedRunner)
    np.testing.assert_array_equal(infer_pipelined(runner, feeds * 2), infer_maps(runner, feeds * 2))


@pytest.mark.parametrize("fps", [10, 30, 5])
def test_states_lag_by_as_many_frames_as_the_frame_rate_requires(
    open_runner: OpenRunner, release: Release, feeds: list[Feed], fps: float
) -> None:
    lagging_release = with_lag(release, 0.3)
    runner = open_runner(release=lagging_release)
    clip = [*feeds, *feeds[::-1], *feeds]
    wanted = expected_maps(lagging_release, clip, fps=fps)
    assert not np.allclose(wanted, expected_maps(release, clip), atol=1e-2)  # the lag matters
    np.testing.assert_allclose(infer_pipelined(runner, clip, fps), wanted, atol=1e-3)
    np.testing.assert_allclose(
        infer_maps(runner, feeds, 10), expected_maps(lagging_release, feeds, fps=10), atol=1e-3
    )


def test_reset_drops_states_and_frames_in_flight(open_runner: OpenRunner, feeds: list[Feed]) -> None:
    runner = open_runner()
    first = infer_maps(runner, feeds)
    runner.submit(feeds[5])
    runner.submit(feeds[6])
    np.testing.assert_array_equal(infer_maps(runner, feeds), first)


def test_a_thousand_frames_allocate_no_memory(open_runner: OpenRunner, feeds: list[Feed]) -> None:
    runner = open_runner()
    for feed in feeds * 10:
        runner.infer(feed)
    available = runner._cuda.available_bytes()
    tracemalloc.start()
    try:
        for feed in feeds * 5:
            runner.infer(feed)
        before = tracemalloc.get_traced_memory()[0]
        for index in range(1000):
            runner.infer(feeds[index % len(feeds)])
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert runner._cuda.integrated or runner._cuda.available_bytes() == available
    assert grown < 20_000


def test_runner_works_in_another_thread(open_runner: OpenRunner, feeds: list[Feed]) -> None:
    runner = open_runner()
    first = infer_maps(runner, feeds)
    other: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: other.append(infer_maps(runner, feeds)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(other[0], first)
    np.testing.assert_array_equal(infer_maps(runner, feeds), first)


def test_wrong_order_of_calls_or_wrong_shape_is_refused(open_runner: OpenRunner, feeds: list[Feed]) -> None:
    runner = open_runner()
    with pytest.raises(RuntimeError, match="no frame is in flight"):
        runner.collect()
    with pytest.raises(InputError, match=r"frame is \(2, 3, 64, 64\); expected \(1, 3, 64, 64\): a TensorRT"):
        runner.infer({"frame": np.zeros((2, 3, 64, 64), np.float32)})
    runner.submit(feeds[0])
    with pytest.raises(RuntimeError, match="frames are in flight: collect them"):
        runner.infer(feeds[1])
    runner.submit(feeds[1])
    with pytest.raises(RuntimeError, match="2 frames are in flight: collect one"):
        runner.submit(feeds[2])


def test_engine_with_other_tensors_than_the_release_is_refused(
    open_runner: OpenRunner, release: Release
) -> None:
    other = dataclasses.replace(release.states[0], input="elsewhere")
    with pytest.raises(InputError, match=r"the engine has tensors .*; the release says .*: build it again"):
        open_runner(release=dataclasses.replace(release, states=(other,)))


# From here on only the simulated GPU: tests control when it runs work.

SCHEDULES: list[Any] = ["at once", "late", *map(random.Random, range(8))]


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("when", SCHEDULES, ids=[*SCHEDULES[:2], *(f"random {seed}" for seed in range(8))])
def test_maps_do_not_depend_on_when_the_gpu_runs_work(
    release: Release, feeds: list[Feed], when: Any, zero_copy: bool
) -> None:
    lagging_release = with_lag(release, 0.2)
    runner = make_simulated_runner(SimulatedCuda(when), lagging_release, zero_copy=zero_copy)
    np.testing.assert_array_equal(infer_pipelined(runner, feeds), expected_maps(lagging_release, feeds))


@pytest.mark.parametrize("ignored", [0, 1], ids=["download before inference", "inference before upload"])
@pytest.mark.parametrize("when", ["at once", "late"])
def test_race_is_detected_if_a_stream_ignores_a_wait(
    release: Release, feeds: list[Feed], ignored: int, when: Any
) -> None:
    """One of the two waits of each frame is ignored. The race is detected even if nothing ran late."""
    runner = make_simulated_runner(SimulatedCuda(when, ignored_waits=(ignored, 2)), release)
    with pytest.raises(RaceError, match=r"copy and|and copy"):
        infer_pipelined(runner, feeds)


def test_maps_are_wrong_if_collect_does_not_wait_for_the_frame(release: Release, feeds: list[Feed]) -> None:
    class WithoutWait(SimulatedCuda):
        def synchronize(self, on: Any) -> None:
            if on in [slot.done for slot in slots]:
                return
            super().synchronize(on)

    slots: list[Any] = []
    runner = make_simulated_runner(WithoutWait(), release)
    slots += runner._ring.slots
    try:
        maps = infer_pipelined(runner, feeds)
    except RaceError:
        return
    assert not np.array_equal(maps, expected_maps(release, feeds))


def test_steady_state_needs_one_launch_per_frame(release: Release, feeds: list[Feed]) -> None:
    cuda = SimulatedCuda()
    runner = make_simulated_runner(cuda, with_lag(release, 0.2))
    runner.reset(10)
    cuda.calls.clear()
    for feed in feeds:
        runner.infer(feed)
    # No allocations; the first two frames, before the past is full, are launched plainly.
    assert cuda.calls == ["launch"] * (len(feeds) - 2)


def test_layer_times_are_measured_with_plain_launches(release: Release, feeds: list[Feed]) -> None:
    cuda = SimulatedCuda()
    runner = make_simulated_runner(cuda, release, time_layers=True)
    for feed in feeds[:5]:
        runner.infer(feed)
    assert "launch" not in cuda.calls
    (layer,) = runner.layer_times(warm=2)
    assert (layer.name, layer.precision, layer.ms) == ("whole", "fp16", 3.0)  # median of 2, 3, 4


def test_launches_are_plain_and_the_reason_is_reported_if_capture_fails(
    release: Release, feeds: list[Feed]
) -> None:
    cuda = SimulatedCuda(captures=False)
    runner = make_simulated_runner(cuda, release)
    assert (
        "plain launches (no CUDA graph: capture failed with CUDA_ERROR_STREAM_CAPTURE" in runner.description
    )
    np.testing.assert_array_equal(infer_pipelined(runner, feeds), expected_maps(release, feeds))
    assert "launch" not in cuda.calls


def test_launches_are_plain_if_the_past_is_long(release: Release, feeds: list[Feed]) -> None:
    lagging_release = with_lag(release, 0.5)
    runner = make_simulated_runner(SimulatedCuda(), lagging_release)
    assert "CUDA graph" in runner.description
    np.testing.assert_array_equal(
        infer_maps(runner, feeds, fps=200), expected_maps(lagging_release, feeds, fps=200)
    )
    assert f"a past of {102} frames is too long for CUDA graphs" in runner.description
    assert MAX_GRAPHS < 102
    runner.reset(10)
    assert "CUDA graph" in runner.description


def test_graphs_are_reused_for_a_frame_rate_that_was_used_before(release: Release) -> None:
    cuda = SimulatedCuda()
    runner = make_simulated_runner(cuda, with_lag(release, 0.3))
    for fps in (10, 30):
        runner.reset(fps)
    available = cuda.available_bytes()
    cuda.calls.clear()
    for fps in (10, 30, 10):
        runner.reset(fps)
    assert cuda.calls == []
    assert cuda.available_bytes() == available


@pytest.mark.parametrize("integrated", [False, True])
def test_integrated_gpu_uses_zero_copy(release: Release, integrated: bool) -> None:
    runner = make_simulated_runner(SimulatedCuda(integrated=integrated), release)
    assert ("zero copy" in runner.description) == integrated


def test_each_thread_makes_the_context_current_once(release: Release, feeds: list[Feed]) -> None:
    """A new thread may have the identifier of one that has ended."""
    cuda = SimulatedCuda()
    runner = make_simulated_runner(cuda, release)
    cuda.calls.clear()
    for _ in range(3):
        thread = threading.Thread(target=infer_maps, args=(runner, feeds))
        thread.start()
        thread.join()
    assert cuda.calls.count("make current") == 3


def test_close_frees_graphs_engine_and_gpu(release: Release, feeds: list[Feed]) -> None:
    cuda = SimulatedCuda()
    engine = OnnxEngine(str(release.path(release.graph("fp32"))), cuda)
    runner = make_runner(cuda, engine, release)
    runner.submit(feeds[0])
    runner.close()
    assert cuda.calls[-2:] == ["free graphs", "free engine"]
    assert cuda.closed


def test_close_succeeds_after_the_gpu_failed(release: Release) -> None:
    class FailingCuda(SimulatedCuda):
        has_failed = False

        def synchronize(self, on: Any) -> None:
            if self.has_failed:
                raise CudaError("synchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")
            super().synchronize(on)

    cuda = FailingCuda()
    runner = make_simulated_runner(cuda, release)
    cuda.has_failed = True
    with pytest.raises(
        CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS: all data on the GPU is lost: start the program again"
    ):
        runner.reset()
    runner.close()
    assert cuda.closed
