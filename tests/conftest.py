"""What many tests need: a clip, the shipped release, the command as a user calls it; and how workers run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import settings

from edge.cli.main import run_cli
from edge.release.manifest import locate_release
from edge.simulation.world import World
from tests.support.made_once import MadeOnce, run_folder

REAL = Path(__file__).parent.parent.parent / "shared" / "data"
"""Real footage beside the project; it is not part of it."""

# A test must not fail because the machine is busy.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# Containers often set this. Each program that a test starts would then compile all modules that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    # There is a worker per core, or more. With a thread per core in each, threads wait for each other.
    # The programs that a test starts inherit this; PyTorch reads it when it is imported.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OPENCV_FOR_THREADS_NUM="1")
    cv2.setNumThreads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the workers start with the longest tests, so that none of them runs alone at the end.

    Raises:
        pytest.UsageError: The tests of a group would run in several workers, and each would make again what
            the group shares.
    """
    if not IS_WORKER:
        return
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if config.getoption("loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError(
            f"pytest {pytest.__version__} and this pytest-xdist do not keep groups of tests together; "
            "install the versions of constraints.txt"
        )


class Outcome(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def find_python(version: str) -> str | None:
    """Return a Python of that version that starts: from the path, or from pyenv's folder."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = shutil.which(f"python{version}")
    candidates = [*([found] if found else []), *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]
    for candidate in candidates:
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEROGAZE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Make what takes long once in a run, for all workers."""
    return MadeOnce(run_folder(tmp_path_factory) / "made-once")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command with arguments, in this process."""

    def call(*arguments: str | Path) -> Outcome:
        code = run_cli([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def flight() -> np.ndarray:
    """Twelve frames (12, 180, 320, 3) of a made flight."""
    world = World(5, 320, 180)
    return np.stack([world.frame(index).image for index in range(12)])


@pytest.fixture(scope="session")
def video(flight: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flight as a video file."""
    path = tmp_path_factory.mktemp("video") / "flight.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 180))
    for frame in flight:
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def folder(flight: np.ndarray, tmp_path: Path) -> Path:
    """The flight as a folder of images."""
    place = tmp_path / "frames"
    place.mkdir()
    for index, frame in enumerate(flight):
        cv2.imwrite(str(place / f"{index}.png"), frame)
    return place


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of the shipped release, to be spoilt."""
    return Path(shutil.copytree(locate_release("skd-64"), tmp_path / "release"))


@pytest.fixture
def real() -> Path:
    """The folder of real footage; the test is skipped where there is none."""
    if not REAL.is_dir():
        pytest.skip(f"no real footage at {REAL}")
    return REAL
