"""GPUs for the tests: a simulated one, which is always available, and the real one with each backend.

Also processes in which libraries of NVIDIA and of a Jetson are compiled stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import BACKENDS, Cuda
from tests.support.cuda_backends import open_cuda_or_skip
from tests.support.simulated_gpu import SimulatedCuda

STAND_INS = Path(__file__).parent / "standin"
Process = subprocess.CompletedProcess[str]
Start = Callable[..., Process]


@pytest.fixture(params=["simulated", *BACKENDS])
def new_cuda(request: pytest.FixtureRequest) -> Iterator[Callable[[], Cuda]]:
    """Return a function that opens the GPU with each backend. All are closed at the end."""
    gpus: list[Cuda] = []

    def open_gpu() -> Cuda:
        gpus.append(SimulatedCuda() if request.param == "simulated" else open_cuda_or_skip(request.param))
        return gpus[-1]

    yield open_gpu
    for gpu in gpus:
        gpu.close()


@pytest.fixture
def cuda(new_cuda: Callable[[], Cuda]) -> Cuda:
    """Return the GPU, opened with each backend."""
    return new_cuda()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-in for libcuda.so.1 and return its folder."""
    if detect_gpu() is not None:
        pytest.skip("needs a machine without a GPU: with one, the other tests use the real driver")
    folder = tmp_path_factory.mktemp("driver")
    _compile("cuda.c", folder / "libcuda.so.1")
    return folder


@pytest.fixture(scope="session")
def jetson_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the stand-in for GStreamer and NvBufSurface and return its folder."""
    folder = tmp_path_factory.mktemp("jetson")
    _compile("jetson.c", folder / "libgstreamer-1.0.so.0")
    for name in ("libgstapp-1.0.so.0", "libnvbufsurface.so.1.0.0"):
        (folder / name).symlink_to("libgstreamer-1.0.so.0")
    return folder


def _compile(source: str, library: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to make stand-ins for libraries (apt-get install gcc)")
    words = ["cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{library.name}", "-o", str(library)]
    subprocess.run([*words, str(STAND_INS / source), "-ldl"], check=True)


@pytest.fixture(scope="session")
def start(driver: Path) -> Start:
    """Return a function that runs Python with the stand-ins for the driver and for TensorRT."""

    def call(*words: str | Path, **environment: str) -> Process:
        root = STAND_INS.parents[2]
        paths = [STAND_INS / "modules", root, *os.environ.get("PYTHONPATH", "").split(":")]
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": str(driver),
            "PYTHONPATH": ":".join(str(path) for path in paths if str(path)),
            "COLUMNS": "200",
            **environment,
        }
        return subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, env=env, timeout=300
        )

    return call


@pytest.fixture(scope="session")
def aerogaze(start: Start) -> Start:
    """Return a function that runs aerogaze with the stand-ins."""
    return lambda *words, **environment: start("-m", "edge.cli.main", *words, **environment)
