"""Both backends, and the commands from end to end, on stand-ins for the driver and for TensorRT.

What is shown: every call goes to the driver with arguments that it takes, in an order that it allows, and all
is freed. What is not: that a GPU does what the stand-in does. Each test is a process of its own, in which
libcuda.so.1 is `standin/cuda.c`, compiled.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.hardware.gpu import detect_gpu
from edge.release.manifest import DEFAULT_RELEASE, locate_release
from tests.gpu.conftest import NEEDED

HERE = Path(__file__).parent
Process = subprocess.CompletedProcess[str]
Start = Callable[..., Process]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for libcuda.so.1."""
    if detect_gpu() is not None:
        pytest.skip("there is a GPU: it is tested itself")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to make a stand-in for the driver")
    folder = tmp_path_factory.mktemp("driver")
    words = ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*words, str(HERE / "standin" / "cuda.c"), "-ldl"], check=True)
    return folder


@pytest.fixture(scope="module")
def start(driver: Path) -> Start:
    """Run Python with the stand-ins."""

    def call(*words: str | Path, **more: str) -> Process:
        paths = [
            HERE / "standin" / "modules",
            HERE.parent.parent,
            *os.environ.get("PYTHONPATH", "").split(":"),
        ]
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": str(driver),
            "PYTHONPATH": ":".join(str(path) for path in paths if str(path)),
            "COLUMNS": "200",
            **more,
        }
        return subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, env=env, timeout=300
        )

    return call


@pytest.fixture(scope="module")
def aerogaze(start: Start) -> Start:
    """Run a command with the stand-ins."""
    return lambda *words, **more: start("-m", "edge.cli.main", *words, **more)


@pytest.mark.parametrize(("backend", "module"), [("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")])
def test_layer_and_runner_pass_their_suites(start: Start, backend: str, module: str) -> None:
    if not _installed(module):
        pytest.skip(f"{module} is not installed")
    lazily = "import os, sys, pytest; sys.setdlopenflags(os.RTLD_LAZY); sys.exit(pytest.main(sys.argv[1:]))"
    words = ["-q", "-p", "no:cacheprovider", HERE / "test_cuda.py", HERE / "test_runner.py", "-k", backend]
    told = start("-c", lazily, *words, **{NEEDED: backend})  # pycuda names calls that the stand-in lacks
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"\b2\d passed, 1 skipped", told.stdout), told.stdout  # one is for machines without


@pytest.mark.parametrize(("backend", "module"), [("cuda-bindings", "cuda.bindings"), ("pycuda", "pycuda")])
def test_nothing_is_left_on_the_driver(start: Start, backend: str, module: str) -> None:
    if not _installed(module):
        pytest.skip(f"{module} is not installed")
    told = start(
        "-c",
        """
import ctypes, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
from edge.inference.cuda.backend import open_cuda
cuda = open_cuda(sys.argv[1])
stream, memory = cuda.stream(), cuda.device(64)
cuda.host((4,), "float32"), cuda.event(), cuda.event(timed=True)
cuda.launch(cuda.capture(stream, lambda: cuda.fill(memory, 1, stream)), stream)
left = ctypes.CDLL("libcuda.so.1").sta_left
before = left()
cuda.close()
print(before, left())
""",
        backend,
    )
    assert (told.stdout, told.stderr) == ("6 0\n", "")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(built_once, tmp_path / "release"))


@pytest.fixture(scope="module")
def built_once(aerogaze: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped release with engines by the stand-in."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    folder = Path(
        shutil.copytree(locate_release(DEFAULT_RELEASE), tmp_path_factory.mktemp("built") / "release")
    )
    told = aerogaze("build", folder, "--target", "local")
    assert told.returncode == 0, told.stderr
    identity = json.loads((folder / "engines" / "local" / "stream.fp16.engine.json").read_text())
    assert (identity["gpu"], identity["compute_capabilities"]) == ("Stand-in", ["8.6"])
    return folder


@pytest.mark.parametrize("integrated", [False, True])
def test_a_run_takes_the_engine_that_fits(
    aerogaze: Start, built: Path, tmp_path: Path, integrated: bool
) -> None:
    maps = [tmp_path / "tensorrt", tmp_path / "onnxruntime"]
    more = {"STANDIN_INTEGRATED": "1"} if integrated else {}
    words = ["run", "synthetic:7:320x180:20", "--release", built, "--precision", "fp32", "--json"]
    told = aerogaze(*words, "--maps", maps[0], **more)
    assert told.returncode == 0, told.stderr
    engine = json.loads(told.stdout)["engine"]
    assert engine.startswith("tensorrt 10.3.0, ")
    assert engine.endswith(", zero copy, CUDA graph" if integrated else ", copied, CUDA graph")
    told = aerogaze(*words, "--engine", "onnxruntime", "--maps", maps[1])
    assert json.loads(told.stdout)["engine"].startswith("onnxruntime")
    ours, theirs = ({p.name: p.read_bytes() for p in place.iterdir()} for place in maps)
    assert len(ours) == 20
    assert ours == theirs


def test_in_a_slot_engines_are_beside_the_release_and_fp16_is_taken(aerogaze: Start, built: Path) -> None:
    shutil.move(built / "engines" / "local", built.parent / "engines")
    told = aerogaze("run", "synthetic:7:320x180:3", "--release", built, "--engine", "tensorrt", "--json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["precision"] == "fp16"
    assert summary["engine"].startswith("tensorrt")


def test_a_profile_measures_the_engine(aerogaze: Start, built: Path, tmp_path: Path) -> None:
    words = ["profile", built, "--engine", "tensorrt", "--precision", "fp32", "--json", tmp_path / "l.json"]
    told = aerogaze(*words, "--layers")
    assert told.returncode == 0, told.stderr
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


@pytest.mark.parametrize("other", ["nothing", "what this board learnt"])
def test_a_board_builds_with_the_timing_cache_that_fits(
    start: Start, built: Path, tmp_path: Path, other: str
) -> None:
    shutil.copytree(built, tmp_path / "slots" / "a" / "release")
    shutil.rmtree(tmp_path / "slots" / "a" / "release" / "engines")
    for place, data in (
        ("a/caches/1.timing", b"rubbish"),
        ("a/caches/2.timing", b"of another GPU"),
        ("a/caches/3.timing", b"carried"),
        *([("b/engines/timing.cache", other.encode())] if other != "nothing" else []),
    ):
        (tmp_path / "slots" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slots" / place).write_bytes(data)
    told = start(
        "-c",
        """
import sys
from pathlib import Path
from edge.release.manifest import load
from jetson.device.engine_trial import TensorRTBackend
slot = Path(sys.argv[1])
TensorRTBackend().build(load(slot / "release"), slot / "engines", print)
""",
        tmp_path / "slots" / "a",
    )
    assert told.returncode == 0, told.stderr
    used = (tmp_path / "slots" / "a" / "engines" / "timing.cache").read_bytes()
    assert used == (b"carried" if other == "nothing" else other.encode())


def test_a_model_has_frames_in_flight(start: Start, built: Path) -> None:
    told = start(
        "-c",
        """
import sys
import numpy as np
from edge.inference.saliency_model import SaliencyModel, clip_maps
model = SaliencyModel(sys.argv[1], "fp32", engine="tensorrt")
model.blur = 0.0
frames = model.release.load_golden()[0]
wanted, found = clip_maps(model, frames), []
for index, frame in enumerate(frames):
    model.submit(model.prepare(frame))
    if index + 1 >= model.depth:
        found.append(model.collect())
while len(found) < len(frames):
    found.append(model.collect())
model.close()
np.testing.assert_array_equal(found, wanted)
print(model.depth, len(found) == len(frames))
""",
        built,
    )
    assert told.stdout == "2 True\n", told.stderr


def other_bytes(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"more")


def for_all_to_write(engine: Path) -> None:
    engine.chmod(0o666)


def changed(**values: object) -> Callable[[Path], None]:
    def change(engine: Path) -> None:
        place = engine.with_name(engine.name + ".json")
        place.write_text(json.dumps({**json.loads(place.read_text()), **values}))

    return change


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_bytes, "its file is not the one that was built"),
        (for_all_to_write, "everybody may write it, and an engine is code"),
        (changed(version="10.16.1"), "TensorRT 10.16.1, here 10.3.0"),
        (lambda engine: engine.with_name(engine.name + ".json").write_text("{"), "cannot be read"),
        (lambda engine: engine.unlink(), "no engine of stream.fp32.onnx was built for Stand-in"),
    ],
    ids=["bytes", "mode", "version", "identity", "missing"],
)
def test_a_plan_that_is_not_the_one_is_never_loaded(
    aerogaze: Start, built: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(built / "engines" / "local" / "stream.fp32.engine")
    words = ["run", "synthetic:7:320x180:3", "--release", built, "--precision", "fp32"]
    told = aerogaze(*words, "--engine", "tensorrt")
    assert told.returncode == 2
    assert says in told.stderr
    assert told.stderr.count("\n") == 1, told.stderr
    assert "aerogaze build" in told.stderr or "chmod o-w" in told.stderr
    assert "deserialised" not in told.stderr


def test_auto_says_why_it_is_not_tensorrt(aerogaze: Start, built: Path) -> None:
    changed(version="10.16.1")(built / "engines" / "local" / "stream.fp32.engine")
    words = ["run", "synthetic:7:320x180:3", "--release", built, "--precision", "fp32", "--json"]
    told = aerogaze(*words)
    assert told.returncode == 0, told.stderr
    engine = json.loads(told.stdout)["engine"]
    assert engine.startswith("onnxruntime")
    assert "(not TensorRT: " in engine
    assert "TensorRT 10.16.1, here 10.3.0" in engine
