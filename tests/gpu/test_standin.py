"""Both CUDA backends, and the commands from end to end, on stand-ins for the driver and for TensorRT.

The tests show that the driver is called with valid arguments in a valid order, and that everything is freed.
They do not show that a GPU does what the stand-in does. Each test starts a process in which libcuda.so.1 is
the compiled `standin/cuda.c`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.release.manifest import locate_release
from tests.gpu.conftest import Start
from tests.support.cuda_backends import NEEDS_VARIABLE

HERE = Path(__file__).parent


@pytest.mark.parametrize(("backend", "module"), [("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")])
def test_cuda_and_runner_tests_pass_on_the_stand_in_driver(start: Start, backend: str, module: str) -> None:
    _skip_without(module, backend)
    # Lazy binding: pycuda refers to functions that the stand-in lacks.
    run_lazily = (
        "import os, sys, pytest; sys.setdlopenflags(os.RTLD_LAZY); sys.exit(pytest.main(sys.argv[1:]))"
    )
    files = [HERE / name for name in ("test_cuda.py", "test_runner.py", "test_kernel_engine.py")]
    words = ["-q", "-p", "no:cacheprovider", *files, "-k", backend]
    process = start("-c", run_lazily, *words, **{NEEDS_VARIABLE: f"gpu,{backend}"})
    assert process.returncode == 0, process.stdout + process.stderr
    # The skipped test needs a machine without a GPU.
    assert re.search(r"\b(3[4-9]|4\d) passed, 1 skipped", process.stdout), process.stdout


@pytest.mark.parametrize(("backend", "module"), [("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")])
def test_close_frees_everything_on_the_driver(start: Start, backend: str, module: str) -> None:
    _skip_without(module, backend)
    process = start(
        "-c",
        """
import ctypes, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
from edge.inference.cuda.backend import open_cuda
cuda = open_cuda(sys.argv[1])
stream, memory = cuda.create_stream(), cuda.allocate(64)
cuda.allocate_pinned((4,), "float32"), cuda.create_event(), cuda.create_event(timed=True)
cuda.launch(cuda.capture(stream, lambda: cuda.fill(memory, 1, stream)), stream)
left = ctypes.CDLL("libcuda.so.1").sta_left
before = left()
cuda.close()
print(before, left())
""",
        backend,
    )
    assert (process.stdout, process.stderr) == ("6 0\n", "")


@pytest.mark.parametrize(("backend", "module"), [("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")])
@pytest.mark.parametrize("function", ["cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"])
def test_context_without_memory_is_released(start: Start, backend: str, module: str, function: str) -> None:
    _skip_without(module, backend)
    code = """
import ctypes, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
from edge.inference.cuda.backend import CudaError, open_cuda
try:
    open_cuda(sys.argv[1])
except CudaError as error:
    print(error.name, ctypes.CDLL("libcuda.so.1").sta_retained())
"""
    process = start("-c", code, backend, STANDIN_FAILS=function)
    assert process.stdout == "CUDA_ERROR_OUT_OF_MEMORY 0\n", process.stderr


OPEN_MODEL = """
import ctypes, sys
from edge.core.errors import InputError
from edge.inference.saliency_model import SaliencyModel
try:
    print(SaliencyModel(sys.argv[1], "fp32", engine=sys.argv[2]).engine)
except InputError as error:
    print(error)
    driver = ctypes.CDLL("libcuda.so.1")
    print(driver.sta_left(), driver.sta_retained())
"""


@pytest.mark.parametrize(
    "function", ["cuMemGetInfo", "cuStreamCreate", "cuMemAlloc", "cuMemHostAlloc", "create_execution_context"]
)
def test_engine_without_memory_leaves_nothing_open(start: Start, built: Path, function: str) -> None:
    process = start("-c", OPEN_MODEL, built, "tensorrt", STANDIN_FAILS=function)
    reason, left = process.stdout.splitlines()
    assert "OUT_OF_MEMORY" in reason or "cannot run the engine (Error Code 2: OutOfMemory)" in reason
    assert left == "0 0"
    assert process.stderr == "deserialised\n" * (function != "cuMemGetInfo")


def test_auto_runs_on_the_cpu_if_the_engine_cannot_be_opened_and_says_why(start: Start, built: Path) -> None:
    process = start("-c", OPEN_MODEL, built, "auto", STANDIN_FAILS="create_execution_context")
    assert process.stdout.startswith("onnxruntime"), process.stderr
    assert (
        "(not TensorRT: tensorrt 10.3.0 cannot run the engine (Error Code 2: OutOfMemory)" in process.stdout
    )


def test_lost_gpu_that_tensorrt_reports_is_no_reason_for_the_cpu(start: Start, built: Path) -> None:
    process = start("-c", OPEN_MODEL, built, "auto", STANDIN_FAILS="execute_async_v3")
    assert process.stdout.startswith(
        "tensorrt 10.3.0 failed with CUDA_ERROR_ILLEGAL_ADDRESS (Error Code 1: Cuda Runtime (an illegal "
        "memory access was encountered)): all data on the GPU is lost: start the program again"
    ), process.stderr


def test_each_batch_size_runs_in_the_range_that_was_optimized_for_it(start: Start) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'aerogaze[export]'")
    pytest.importorskip(
        "cuda.bindings", reason="cuda-bindings is not installed: pip install 'aerogaze[cuda]'"
    )
    process = start(
        "-c",
        """
import numpy as np, onnxruntime as ort
from edge.core.errors import InputError
from edge.inference.cuda.backend import open_cuda
from edge.inference.interface.runner import GraphSignature
from edge.inference.tensorrt.api import TensorRTEngine, build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from tests.support.onnx_graphs import SIDE, batch_graph
graph = batch_graph().SerializeToString()
plan, session = build_plan(graph, BuildTarget("tensorrt")), ort.InferenceSession(graph)
signature = GraphSignature({"x": (None, 3, SIDE, SIDE)}, {"y": (None, 1, SIDE, SIDE)}, ())
for batch in (1, 2, 256, 257):
    cuda, engine = open_cuda("cuda-bindings"), TensorRTEngine(plan.data, "tensorrt")
    try:
        runner = TensorRTRunner(engine, cuda, signature, RunnerOptions(batch))
    except InputError as error:
        print(error)
        continue
    x = np.random.default_rng(batch).random((batch, 3, SIDE, SIDE), np.float32)
    np.testing.assert_allclose(runner.infer({"x": x})["y"], session.run(None, {"x": x})[0], atol=1e-6)
    print(batch, engine._context.active_optimization_profile)
    runner.close()
""",
    )
    assert process.stdout.splitlines() == [
        "1 0",
        "2 1",
        "256 1",
        "the engine allows no inputs of shape (257, 3, 16, 16); expected batch sizes 1 to 1, 2 to 256",
    ], process.stderr


def test_items_of_an_acceptance_measure_a_gpu(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'aerogaze[export]'")
    pytest.importorskip(
        "cuda.bindings", reason="cuda-bindings is not installed: pip install 'aerogaze[cuda]'"
    )
    code = """
import sys
from pathlib import Path
from edge.acceptance import engines, surroundings
from edge.acceptance.workspace import Workspace
engines.ROUNDS, engines.WARM_UP_FRAMES = 1, 10
engines.PIPELINE_FRAMES = engines.MEMORY_FRAMES = (40, 40)
workspace = Workspace(Path(sys.argv[1]), quick=True)
for item in (
    surroundings.check_backends(workspace),
    engines.build(workspace, "skd-64", "fp16"),
    engines.measure_engine(workspace, "fp16"),
    engines.measure_pipeline(workspace),
    engines.measure_memory(workspace),
):
    print(item.text)
"""
    process = start("-c", code, tmp_path)
    assert process.returncode == 0, process.stderr
    backends, built, engine, pipeline, memory = process.stdout.splitlines()
    assert "copies right, memory of its own" in backends
    assert "KiB, tensorrt 10.3.0" in built
    assert engine.startswith("tensorrt 10.3.0, cuda-bindings")
    assert "CC with ONNX Runtime at least 1.00000" in engine
    assert "blocking waits p50 " in engine
    assert "frames/s against" in pipeline
    assert "over 40 frames" in memory


def _skip_without(module: str, package: str) -> None:
    try:
        is_installed = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        is_installed = False
    if not is_installed:
        pytest.skip(f"{module} is not installed: pip install {package}")


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """Return a copy of the built release that the test may damage."""
    return Path(shutil.copytree(built_once, tmp_path / "release"))


@pytest.fixture(scope="module")
def built_once(aerogaze: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shipped release with engines built by the stand-in."""
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'aerogaze[export]'")
    pytest.importorskip(
        "cuda.bindings", reason="cuda-bindings is not installed: pip install 'aerogaze[cuda]'"
    )
    folder = Path(shutil.copytree(locate_release("skd-64"), tmp_path_factory.mktemp("built") / "release"))
    process = aerogaze("build", folder, "--target", "local")
    assert process.returncode == 0, process.stderr
    identity = json.loads((folder / "engines" / "local" / "stream.fp16.engine.json").read_text())
    assert (identity["gpu"], identity["compute_capabilities"]) == ("Stand-in", ["8.6"])
    return folder


@pytest.mark.parametrize("integrated", [False, True])
def test_run_uses_the_matching_engine(aerogaze: Start, built: Path, tmp_path: Path, integrated: bool) -> None:
    maps = [tmp_path / "tensorrt", tmp_path / "onnxruntime"]
    environment = {"STANDIN_INTEGRATED": "1"} if integrated else {}
    words = ["run", "synthetic:7:320x180:20", "--release", built, "--precision", "fp32", "--json"]
    process = aerogaze(*words, "--maps", maps[0], **environment)
    assert process.returncode == 0, process.stderr
    engine = json.loads(process.stdout)["engine"]
    assert engine.startswith("tensorrt 10.3.0, ")
    assert engine.endswith(", zero copy, CUDA graph" if integrated else ", copied, CUDA graph")
    process = aerogaze(*words[:-1], "--gpu-wait", "block", **environment)
    assert "CUDA graph, blocking waits" in process.stdout + process.stderr
    process = aerogaze(*words, "--engine", "onnxruntime", "--maps", maps[1])
    assert json.loads(process.stdout)["engine"].startswith("onnxruntime")
    tensorrt_maps, onnx_maps = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in maps)
    assert len(tensorrt_maps) == 20
    assert tensorrt_maps == onnx_maps


def test_run_finds_engines_next_to_the_release_and_prefers_fp16(aerogaze: Start, built: Path) -> None:
    shutil.move(built / "engines" / "local", built.parent / "engines")
    process = aerogaze("run", "synthetic:7:320x180:3", "--release", built, "--engine", "tensorrt", "--json")
    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout)
    assert summary["precision"] == "fp16"
    assert summary["engine"].startswith("tensorrt")


def test_profile_measures_the_engine(aerogaze: Start, built: Path, tmp_path: Path) -> None:
    words = ["profile", built, "--engine", "tensorrt", "--precision", "fp32", "--json", tmp_path / "l.json"]
    process = aerogaze(*words, "--layers")
    assert process.returncode == 0, process.stderr
    document = json.loads((tmp_path / "l.json").read_text())
    (row,) = document["latencies"]
    layers = document["layers"]["fp32"]
    assert set(layers["parts_ms"]) == {"trunk", "spatial", "temporal", "decoder"}
    assert [layer["ms"] for layer in layers["layers"][:2]] == [0.001, 0.002]
    assert {layer["precision"] for layer in layers["layers"]} == {"fp16"}  # as the stand-in's inspector says
    assert row["engine"].startswith("tensorrt 10.3.0")
    assert set(row["gpu"]) == {"enqueue_ms", "copy_in_ms", "gpu_ms", "copy_out_ms"}
    assert row["gpu"]["enqueue_ms"] > 0
    assert row["size_bytes"] == (built / "engines" / "local" / "stream.fp32.engine").stat().st_size


@pytest.mark.parametrize("own_cache", ["nothing", "cache of this board"])
def test_board_builds_with_the_first_matching_timing_cache(
    start: Start, built: Path, tmp_path: Path, own_cache: str
) -> None:
    shutil.copytree(built, tmp_path / "slots" / "a" / "release")
    shutil.rmtree(tmp_path / "slots" / "a" / "release" / "engines")
    for name, data in (
        ("a/caches/1.timing", b"rubbish"),
        ("a/caches/2.timing", b"of another GPU"),
        ("a/caches/3.timing", b"carried"),
        *([("b/engines/timing.cache", own_cache.encode())] if own_cache != "nothing" else []),
    ):
        (tmp_path / "slots" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slots" / name).write_bytes(data)
    process = start(
        "-c",
        """
import sys
from pathlib import Path
from edge.release.manifest import load_release
from jetson.device.engine_trial import TensorRTBackend
slot = Path(sys.argv[1])
TensorRTBackend().build(load_release(slot / "release"), slot / "engines", print)
""",
        tmp_path / "slots" / "a",
    )
    assert process.returncode == 0, process.stderr
    used = (tmp_path / "slots" / "a" / "engines" / "timing.cache").read_bytes()
    assert used == (b"carried" if own_cache == "nothing" else own_cache.encode())


def test_precision_that_cannot_be_built_leaves_the_others_to_choose_from(
    start: Start, built: Path, tmp_path: Path
) -> None:
    release = tmp_path / "slots" / "a" / "release"
    shutil.copytree(built, release)
    shutil.rmtree(release / "engines")
    process = start(
        "-c",
        """
import sys
from pathlib import Path
from edge.release.manifest import load_release
from jetson.device import engine_trial
from jetson.device.precision_policy import choose_precision, parse_policy
engine_trial.RUNS, engine_trial.WARM_UP = 5, 1
slot, lines = Path(sys.argv[1]), []
release, backend = load_release(slot / "release"), engine_trial.TensorRTBackend()
refused = backend.build(release, slot / "engines", lines.append)
rows = backend.measure(release, slot / "engines", lines.append, refused)
print([(row.precision, row.refused) for row in rows])
print(choose_precision(parse_policy("closest"), rows)[1])
print(sorted(path.name for path in (slot / "engines").glob("*.engine")))
print("trying int8 on tensorrt" in lines, "built stream.fp32.engine" in str(lines))
""",
        release.parent,
        STANDIN_REFUSES="QuantizeLinear",
    )
    assert process.returncode == 0, process.stderr
    rows, choice, engines, log = process.stdout.splitlines()
    reason = (
        "stream.int8.tensorrt.onnx: TensorRT 10.3.0 cannot build the graph: "
        "Error Code 10: Could not find any implementation for node"
    )
    assert rows == str([("fp32", None), ("fp16", None), ("int8", reason)])
    assert choice == f"fp32: closest of fp32, fp16; not int8: {reason}"
    assert engines == "['stream.fp16.engine', 'stream.fp32.engine']"
    assert log == "False True"


def test_model_keeps_frames_in_flight(start: Start, built: Path) -> None:
    process = start(
        "-c",
        """
import sys
import numpy as np
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
model = SaliencyModel(sys.argv[1], "fp32", engine="tensorrt")
model.blur = 0.0
frames = model.release.load_golden()[0]
expected, maps = compute_clip_maps(model, frames), []
for index, frame in enumerate(frames):
    model.submit(model.prepare(frame))
    if index + 1 >= model.depth:
        maps.append(model.collect())
while len(maps) < len(frames):
    maps.append(model.collect())
model.close()
np.testing.assert_array_equal(maps, expected)
print(model.depth, len(maps) == len(frames))
""",
        built,
    )
    assert process.stdout == "2 True\n", process.stderr


def append_bytes(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"more")


def make_world_writable(engine: Path) -> None:
    engine.chmod(0o666)


def change_identity(**values: object) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        path = engine.with_name(engine.name + ".json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (append_bytes, "its file is not the one that was built"),
        (make_world_writable, "everybody may write it, and an engine is code"),
        (change_identity(version="10.16.1"), "TensorRT 10.16.1, here 10.3.0"),
        (lambda engine: engine.with_name(engine.name + ".json").write_text("{"), "cannot be read"),
        (lambda engine: engine.unlink(), "no engine of stream.fp32.onnx was built for Stand-in"),
    ],
    ids=["bytes", "mode", "version", "identity", "missing"],
)
def test_plan_that_does_not_match_is_never_loaded(
    aerogaze: Start, built: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(built / "engines" / "local" / "stream.fp32.engine")
    words = ["run", "synthetic:7:320x180:3", "--release", built, "--precision", "fp32"]
    process = aerogaze(*words, "--engine", "tensorrt")
    assert process.returncode == 2
    assert message in process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    assert "aerogaze build" in process.stderr or "chmod o-w" in process.stderr
    assert "deserialised" not in process.stderr


def test_auto_reports_why_tensorrt_is_not_used(aerogaze: Start, built: Path) -> None:
    change_identity(version="10.16.1")(built / "engines" / "local" / "stream.fp32.engine")
    words = ["run", "synthetic:7:320x180:3", "--release", built, "--precision", "fp32", "--json"]
    process = aerogaze(*words)
    assert process.returncode == 0, process.stderr
    engine = json.loads(process.stdout)["engine"]
    assert engine.startswith("onnxruntime")
    assert "(not TensorRT: " in engine
    assert "TensorRT 10.16.1, here 10.3.0" in engine
