"""Boards, bundles and desks of version 0.1.0 and of today work with each other, or say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.board_images import ROOT, BoardImages, board_platform, flash
from tests.support.power_cuts import check_flown, find_orphans
from tests.support.virtual_board import Board, Desk, call

pytestmark = pytest.mark.long
VERSION_0_1_0 = "d4a83d5"
"""Commit of version 0.1.0."""
MakeBundle = Callable[[int], Path]
PREPARE = "import setuptools.build_meta as b, sys; b.prepare_metadata_for_build_wheel(sys.argv[1])"
RUN = "import sys; sys.path.pop(0); from edge.command import main; main()"
"""Runs the command of version 0.1.0, and never what lies in the folder of this process."""


@pytest.fixture(scope="module")
def old_desk(images: BoardImages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which Python runs version 0.1.0, from this project's history."""
    folder = tmp_path_factory.mktemp("0.1.0")
    archive = subprocess.run(["/usr/bin/git", "-C", ROOT, "archive", VERSION_0_1_0], capture_output=True)
    if archive.returncode:
        pytest.skip(
            f"the history of this checkout does not reach back to {VERSION_0_1_0} (git fetch --unshallow)"
        )
    subprocess.run(["/bin/tar", "-x", "-C", folder], input=archive.stdout, check=True)
    # Its own metadata, which the wheel for boards is made of, beside its code.
    subprocess.run([sys.executable, "-c", PREPARE, folder], cwd=folder, check=True, capture_output=True)
    return {**images.desk_environment(), "PYTHONPATH": str(folder)}


def old_aerogaze(*words: str | Path) -> list[str | Path]:
    """Return the command `aerogaze` of version 0.1.0 with its arguments."""
    return [sys.executable, "-c", RUN, *words]


@pytest.fixture(scope="module")
def old_board_disk(desk: Desk, images: BoardImages, bundles: MakeBundle, old_desk: dict[str, str]) -> Path:
    """Disk of a board that version 0.1.0 has flashed, twice."""
    variables = [f"{name}={value}" for name, value in old_desk.items()]
    call("env", *variables, *old_aerogaze("wheels", board_platform(images)), limit_s=1200)
    with desk.board(desk.clone(images.debian, "old.img")) as board:
        board.start()
        for counter, options in ((1, ("--trust", images.folder / "k.pub")), (2, ())):
            words = old_aerogaze(*board.flash_words(bundles(counter), *options))
            done = desk.run(*words, environment=old_desk)
            assert done.returncode == 0, done.stderr
        assert "aerogaze 0.1.0" in board.ssh("/opt/aerogaze/bin/aerogaze", "--version").stdout
        board.shut_down()
        return board.image


def ask(board: Board, *words: str) -> str:
    return board.ssh("sudo", "/opt/aerogaze/bin/aerogaze", "device", *words).stdout


def read_status(board: Board) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(ask(board, "status", "--json"))
    return status


def test_new_desk_flashes_and_rolls_back_a_board_of_version_0_1_0(
    desk: Desk, images: BoardImages, bundles: MakeBundle, old_board_disk: Path
) -> None:
    with desk.board(desk.clone(old_board_disk, "old-flashed.img")) as board:
        board.start()
        assert read_status(board)["counter"] == 2
        # The old runtime stays: it is as new as the bundle requires.
        flash(images, board, bundles(3))
        assert read_status(board)["counter"] == 3
        ask(board, "rollback", "--no-autopilot")
        assert read_status(board)["counter"] == 2
        # With the new runtime, the state of the old one is read.
        flash(images, board, bundles(4), "--runtime")
        status = read_status(board)
        assert (status["counter"], status["state"]) == (4, "good")
        assert not status["aerogaze"].startswith("0.1.0")
        assert "counter 2 is what was signed" in ask(board, "verify")
        ask(board, "rollback", "--no-autopilot")
        assert read_status(board)["counter"] == 2
        assert "install skd-64 counter 2" in ask(board, "history")
        assert find_orphans(board) == []


def test_desk_of_version_0_1_0_flashes_a_new_board(
    desk: Desk, bundles: MakeBundle, flown_disk: Path, old_desk: dict[str, str]
) -> None:
    with desk.board(desk.clone(flown_disk, "new.img")) as board:
        board.start()
        done = desk.run(*old_aerogaze(*board.flash_words(bundles(2))), environment=old_desk)
        assert done.returncode == 0, done.stderr
        check_flown(board, {2})


def test_bundle_of_version_0_1_0_flies_on_a_new_board(
    desk: Desk, images: BoardImages, flown_disk: Path, old_desk: dict[str, str], tmp_path: Path
) -> None:
    bundle = tmp_path / "old.swu"
    words = ("bundle", "skd-64", "--key", images.folder / "k", "--counter", "2", "--out", bundle)
    made = desk.run(*old_aerogaze(*words), environment=old_desk)
    assert made.returncode == 0, made.stderr
    with desk.board(desk.clone(flown_disk, "new-old-bundle.img")) as board:
        board.start()
        flash(images, board, bundle)
        assert check_flown(board, {2}) == 2
