"""A board with an Arm processor: QEMU runs Debian's arm64 packages and the wheels that a flash carries.

Its arithmetic is compared with that of this machine. Nothing here is about speed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.metrics.saliency import cc
from edge.release.manifest import DEFAULT_RELEASE, SHIPPED_RELEASES, load_release
from tests.support.arm_processor import (
    ArmProcessor,
    UnavailableError,
    cached_board,
    copy_board,
    missing_for_arm,
)
from tests.support.board_images import aerogaze
from tests.support.virtual_board import call

pytestmark = pytest.mark.long
DETECT = """
from edge.hardware.host import detect_machine
machine = detect_machine()
print(machine.architecture, machine.computes_natively("int8"))
"""
OPEN = """
import sys, edge
for precision in sys.argv[2:]:
    edge.open_model(sys.argv[1], precision, threads=1).close()
    print(precision)
"""
"""Opens a release in some precisions, which is an error where the maps are not the golden ones."""
RENDER = """
import sys, numpy, edge
numpy.savez(sys.argv[1], *([frame.image for frame in edge.open_source(name)] for name in sys.argv[2:]))
"""
"""Renders synthetic sources into a file."""
SCENES = ("synthetic:7:320x180:2", "synthetic:night:5:160x96:2", "synthetic:harbour:5:160x96:2")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> ArmProcessor:
    """A board with the code of this checkout, and with the shipped releases in /desk."""
    if reason := missing_for_arm():
        pytest.skip(reason)
    try:
        cached = cached_board()
    except UnavailableError as error:
        pytest.skip(f"no board with an Arm processor can be made: {error}")
    board = copy_board(cached, tmp_path_factory.mktemp("arm") / "root")
    shutil.copytree(SHIPPED_RELEASES, board.root / "desk")
    return board


def read_maps(folder: Path) -> list[NDArray[np.float64]]:
    """Read a folder of maps."""
    return [
        np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.float64)
        for path in sorted(folder.glob("*.png"))
    ]


def test_processor_is_an_arm_one_that_computes_int8(board: ArmProcessor) -> None:
    assert board.python(DETECT).split() == ["aarch64", "True"]


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED_RELEASES.iterdir()))
def test_shipped_release_gives_its_golden_maps(board: ArmProcessor, name: str) -> None:
    precisions = load_release(name).precisions("stream", "onnxruntime")
    assert board.python(OPEN, f"/desk/{name}", *precisions).split() == list(precisions)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(("name", "lowest_cc"), [("skd-64", 0.999995), (DEFAULT_RELEASE, 0.999)])
def test_run_gives_the_maps_of_this_machine(
    board: ArmProcessor, name: str, lowest_cc: float, precision: str, folder: Path, tmp_path: Path
) -> None:
    """With alignment, maps also depend on the estimate of the camera's motion. It differs a little."""
    shutil.copytree(folder, board.root / "desk" / "frames", dirs_exist_ok=True)
    options = ("--precision", precision, "--maps")
    board.aerogaze("run", "/desk/frames", "--release", f"/desk/{name}", *options, "/desk/maps")
    call(*aerogaze("run", folder, "--release", name, *options, tmp_path / "maps"))
    actual, expected = read_maps(board.root / "desk" / "maps"), read_maps(tmp_path / "maps")
    assert len(actual) == len(expected) == len(list(folder.iterdir()))
    assert min(map(cc, actual, expected)) >= lowest_cc
    if (name, precision) == ("skd-64", "fp32"):
        largest_difference = np.abs(np.subtract(actual, expected)).max()
        assert largest_difference <= 1  # of 65,535, which is the maximum of a frame


def test_synthetic_frames_show_the_same_in_other_values(board: ArmProcessor, tmp_path: Path) -> None:
    """The limits are about twice what docs/reference/world.md says."""
    board.python(RENDER, "/desk/frames.npz", *SCENES)
    call(sys.executable, "-c", RENDER, tmp_path / "frames.npz", *SCENES)
    files = [np.load(path / "frames.npz") for path in (board.root / "desk", tmp_path)]
    for scene in files[0]:
        difference = np.abs(np.subtract(*(file[scene].astype(int) for file in files)))
        assert 0 < difference.mean() < 6
        assert difference.max() < 60
