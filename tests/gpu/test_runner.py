"""The TensorRT runner: its logic on a stand-in, where races are found; the same on a GPU, if there is one."""

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
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import BACKENDS, Cuda, CudaError
from edge.inference.engine_selection import read_plan, select_engine
from edge.inference.interface.runner import PipelinedRunner
from edge.inference.onnxruntime.runner import OnnxRunner, Shape
from edge.inference.tensorrt.api import TensorRTEngine, load_tensorrt
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind
from edge.inference.tensorrt.runner import MAX_GRAPHS, TensorRTRunner
from edge.metrics.saliency import cc
from edge.release.manifest import PRECISIONS, Release, load_release, locate_release
from tests.gpu.conftest import opened
from tests.gpu.host import Host, OnnxExecution, RaceError

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def release() -> Release:
    return load_release()


@pytest.fixture
def feeds(release: Release, flight: np.ndarray) -> list[Feed]:
    return [{"frame": release.prepare(frame)} for frame in flight]


def lagging(release: Release, lag_s: float) -> Release:
    """The release with states of another lag."""
    states = tuple(dataclasses.replace(state, lag_s=lag_s) for state in release.states)
    return dataclasses.replace(release, states=states)


def expected(release: Release, feeds: Sequence[Feed], precision: str = "fp32", fps: float = 10) -> np.ndarray:
    """What ONNX Runtime gives for the graph that the engine was built from."""
    path = release.path(release.graph(precision, "stream", "tensorrt"))
    runner = OnnxRunner(path, *tensors(release), release.states, threads=1)
    runner.reset(fps)
    maps = np.stack([runner.infer(feed)["saliency"].copy() for feed in feeds])
    runner.close()
    return maps


def maps_of(runner: TensorRTRunner, feeds: Sequence[Feed], fps: float = 10) -> np.ndarray:
    """What a runner gives, from a fresh start."""
    runner.reset(fps)
    return np.stack([runner.infer(feed)["saliency"].copy() for feed in feeds])


def overlapped(runner: TensorRTRunner, feeds: Sequence[Feed], fps: float = 10) -> np.ndarray:
    """The same, with as many frames in flight as there may be."""
    runner.reset(fps)
    maps: list[np.ndarray] = []
    for index, feed in enumerate(feeds):
        given = {name: value.copy() for name, value in feed.items()}
        runner.submit(given)
        for value in given.values():
            value[...] = np.nan  # what was submitted may be changed
        if index >= runner.depth - 1:
            maps.append(runner.collect()["saliency"].copy())
    while len(maps) < len(feeds):
        maps.append(runner.collect()["saliency"].copy())
    return np.stack(maps)


def tensors(release: Release) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shapes of what a stream takes and gives."""
    size = release.preprocessing.height, release.preprocessing.width
    return {"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}


def runner_on(cuda: Cuda, execution: Any, release: Release, **settings: Any) -> TensorRTRunner:
    return TensorRTRunner(execution, cuda, *tensors(release), release.states, **settings)


def on_host(host: Host, release: Release, precision: str = "fp32", **settings: Any) -> TensorRTRunner:
    path = release.path(release.graph(precision, "stream", "tensorrt"))
    return runner_on(host, OnnxExecution(str(path), host), release, **settings)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped release with engines for the GPU at hand."""
    if detect_gpu() is None:
        pytest.skip("there is no NVIDIA GPU here, or no driver for one")
    from export.engines.build import build_engines
    from export.engines.build_source import release_engine_source

    kinds: dict[str, TensorRTKind] = {"local": "tensorrt", "rtx": "rtx"}
    for target, kind in kinds.items():
        try:
            load_tensorrt(kind)
        except InputError:
            continue
        folder = tmp_path_factory.mktemp("built") / "release"
        shutil.copytree(locate_release(None), folder)
        opened_ = load_release(folder)
        list(
            build_engines(
                release_engine_source(opened_), BuildTarget.parse(target), folder / "engines" / target
            )
        )
        return folder
    pytest.skip("neither TensorRT nor TensorRT for RTX is installed")


Open = Callable[..., TensorRTRunner]


@pytest.fixture(params=["host", *BACKENDS])
def open_on(request: pytest.FixtureRequest, release: Release) -> Iterator[Open]:
    """Open runners on the stand-in, and on the GPU by each backend."""
    made: list[TensorRTRunner] = []

    def make(release: Release = release, precision: str = "fp32", **settings: Any) -> TensorRTRunner:
        if request.param == "host":
            made.append(on_host(Host(), release, precision, **settings))
            return made[-1]
        cuda = opened(request.param)
        real = load_release(request.getfixturevalue("built"))
        chosen = select_engine(real, precision, "stream", "tensorrt").plan
        assert chosen is not None
        execution = TensorRTEngine(read_plan(chosen.path, chosen.plan_sha256), chosen.kind)
        made.append(runner_on(cuda, execution, release, **settings))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.2}
LEAST_CC = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.99}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_maps_are_those_of_onnx_runtime(
    open_on: Open, release: Release, feeds: list[Feed], precision: str
) -> None:
    found, wanted = maps_of(open_on(precision=precision), feeds), expected(release, feeds, precision)
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE[precision])
    likeness = [cc(one[0, 0], other[0, 0]) for one, other in zip(found, wanted, strict=True)]
    assert min(likeness) > LEAST_CC[precision]


@pytest.mark.parametrize("zero_copy", [False, True])
def test_graph_replay_equals_plain_launches(open_on: Open, feeds: list[Feed], zero_copy: bool) -> None:
    replayed, plain = (open_on(graphs=graphs, zero_copy=zero_copy) for graphs in (True, False))
    assert "CUDA graph" in replayed.description
    assert "plain launches" in plain.description
    np.testing.assert_array_equal(maps_of(replayed, feeds * 3), maps_of(plain, feeds * 3))


def test_zero_copy_equals_copies(open_on: Open, feeds: list[Feed]) -> None:
    copied, shared = open_on(zero_copy=False), open_on(zero_copy=True)
    assert "copied" in copied.description
    assert "zero copy" in shared.description
    np.testing.assert_array_equal(maps_of(shared, feeds), maps_of(copied, feeds))


@pytest.mark.parametrize("zero_copy", [False, True])
def test_frames_in_flight_change_nothing(open_on: Open, feeds: list[Feed], zero_copy: bool) -> None:
    runner = open_on(zero_copy=zero_copy)
    assert isinstance(runner, PipelinedRunner)
    np.testing.assert_array_equal(overlapped(runner, feeds * 2), maps_of(runner, feeds * 2))


@pytest.mark.parametrize("fps", [10, 30, 5])
def test_states_look_back_as_far_as_the_rate_asks(
    open_on: Open, release: Release, feeds: list[Feed], fps: float
) -> None:
    lags = lagging(release, 0.3)
    runner = open_on(release=lags)
    clip = [*feeds, *feeds[::-1], *feeds]
    wanted = expected(lags, clip, fps=fps)
    assert not np.allclose(wanted, expected(release, clip), atol=1e-2)  # the past counts
    np.testing.assert_allclose(overlapped(runner, clip, fps), wanted, atol=1e-3)
    np.testing.assert_allclose(maps_of(runner, feeds, 10), expected(lags, feeds, fps=10), atol=1e-3)


def test_a_reset_forgets_the_past_and_what_is_in_flight(open_on: Open, feeds: list[Feed]) -> None:
    runner = open_on()
    first = maps_of(runner, feeds)
    runner.submit(feeds[5])
    runner.submit(feeds[6])
    np.testing.assert_array_equal(maps_of(runner, feeds), first)


def test_a_thousand_frames_take_no_memory(open_on: Open, feeds: list[Feed]) -> None:
    runner = open_on()
    for feed in feeds * 10:
        runner.infer(feed)
    free = runner._cuda.free_bytes()
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
    assert runner._cuda.integrated or runner._cuda.free_bytes() == free
    assert grown < 20_000


def test_a_runner_goes_on_in_another_thread(open_on: Open, feeds: list[Feed]) -> None:
    runner = open_on()
    first = maps_of(runner, feeds)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(maps_of(runner, feeds)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_array_equal(maps_of(runner, feeds), first)


def test_wrong_use_is_told(open_on: Open, feeds: list[Feed]) -> None:
    runner = open_on()
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


def test_an_engine_of_other_tensors_is_refused(open_on: Open, release: Release) -> None:
    other = dataclasses.replace(release.states[0], input="elsewhere")
    with pytest.raises(InputError, match=r"the engine has tensors .*; the release says .*: build it again"):
        open_on(release=dataclasses.replace(release, states=(other,)))


# The stand-in alone, from here on: it can be told when to run what.

SCHEDULES: list[Any] = ["at once", "late", *map(random.Random, range(8))]


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("when", SCHEDULES, ids=[*SCHEDULES[:2], *(f"random {seed}" for seed in range(8))])
def test_whenever_the_gpu_runs_what(release: Release, feeds: list[Feed], when: Any, zero_copy: bool) -> None:
    lags = lagging(release, 0.2)
    runner = on_host(Host(when), lags, zero_copy=zero_copy)
    np.testing.assert_array_equal(overlapped(runner, feeds), expected(lags, feeds))


@pytest.mark.parametrize("lost", [0, 1], ids=["download before inference", "inference before upload"])
@pytest.mark.parametrize("when", ["at once", "late"])
def test_each_wait_is_needed(release: Release, feeds: list[Feed], lost: int, when: Any) -> None:
    """The stand-in does not hear one of a frame's two waits: the race is found, though nothing was late."""
    runner = on_host(Host(when, deaf=(lost, 2)), release)
    with pytest.raises(RaceError, match=r"copy and|and copy"):
        overlapped(runner, feeds)


def test_waiting_for_the_frame_is_needed(release: Release, feeds: list[Feed]) -> None:
    class Impatient(Host):
        def synchronise(self, on: Any) -> None:
            if on in [slot.done for slot in slots]:
                return
            super().synchronise(on)

    slots: list[Any] = []
    runner = on_host(Impatient(), release)
    slots += runner._slots
    try:
        found = overlapped(runner, feeds)
    except RaceError:
        return
    assert not np.array_equal(found, expected(release, feeds))


def test_the_steady_loop_is_one_launch(release: Release, feeds: list[Feed]) -> None:
    host = Host()
    runner = on_host(host, lagging(release, 0.2))
    runner.reset(10)
    host.calls.clear()
    for feed in feeds:
        runner.infer(feed)
    assert host.calls == ["launch"] * (len(feeds) - 2)  # no allocation; two frames until the past is full


def test_layers_are_timed_by_plain_launches(release: Release, feeds: list[Feed]) -> None:
    host = Host()
    runner = on_host(host, release, layers=True)
    for feed in feeds[:5]:
        runner.infer(feed)
    assert "launch" not in host.calls
    (whole,) = runner.layer_times(warm=2)
    assert (whole.name, whole.precision, whole.ms) == ("whole", "fp16", 3.0)  # of 0 to 4, less the first two


def test_where_capture_fails_launches_are_plain_and_it_is_said(release: Release, feeds: list[Feed]) -> None:
    host = Host(captures=False)
    runner = on_host(host, release)
    assert (
        "plain launches (no CUDA graph: capture failed with CUDA_ERROR_STREAM_CAPTURE" in runner.description
    )
    np.testing.assert_array_equal(overlapped(runner, feeds), expected(release, feeds))
    assert "launch" not in host.calls


def test_a_long_past_is_run_by_plain_launches(release: Release, feeds: list[Feed]) -> None:
    lags = lagging(release, 0.5)
    runner = on_host(Host(), lags)
    assert "CUDA graph" in runner.description
    np.testing.assert_array_equal(maps_of(runner, feeds, fps=200), expected(lags, feeds, fps=200))
    assert f"a past of {102} frames is too long for CUDA graphs" in runner.description
    assert MAX_GRAPHS < 102
    runner.reset(10)
    assert "CUDA graph" in runner.description


def test_a_rate_that_comes_back_captures_nothing_again(release: Release) -> None:
    host = Host()
    runner = on_host(host, lagging(release, 0.3))
    for fps in (10, 30):
        runner.reset(fps)
    free = host.free_bytes()
    host.calls.clear()
    for fps in (10, 30, 10):
        runner.reset(fps)
    assert host.calls == []
    assert host.free_bytes() == free


@pytest.mark.parametrize("integrated", [False, True])
def test_boards_that_share_their_memory_copy_nothing(release: Release, integrated: bool) -> None:
    runner = on_host(Host(integrated=integrated), release)
    assert ("zero copy" in runner.description) == integrated


def test_each_thread_enters_once(release: Release, feeds: list[Feed]) -> None:
    """Though a thread may get the number of one that has ended."""
    host = Host()
    runner = on_host(host, release)
    host.calls.clear()
    for _ in range(3):
        thread = threading.Thread(target=maps_of, args=(runner, feeds))
        thread.start()
        thread.join()
    assert host.calls.count("enter") == 3


def test_closing_frees_engine_and_gpu(release: Release, feeds: list[Feed]) -> None:
    host = Host()
    execution = OnnxExecution(str(release.path(release.graph("fp32"))), host)
    runner = runner_on(host, execution, release)
    runner.submit(feeds[0])
    runner.close()
    assert host.calls[-2:] == ["free graphs", "free engine"]
    assert host.closed


def test_a_gpu_that_failed_is_closed_all_the_same(release: Release) -> None:
    class Failed(Host):
        failed = False

        def synchronise(self, on: Any) -> None:
            if self.failed:
                raise CudaError("synchronise", "CUDA_ERROR_ILLEGAL_ADDRESS")
            super().synchronise(on)

    host = Failed()
    runner = on_host(host, release)
    host.failed = True
    with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS: what the GPU held is lost: start again"):
        runner.reset()
    runner.close()
    assert host.closed
