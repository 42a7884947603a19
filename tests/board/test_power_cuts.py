"""The plug is pulled while an install writes, while it watches, and in its recovery: a release flies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.board_images import BoardImages, flash
from tests.support.power_cuts import Cut, check_flown, find_orphans, install_steps, recorded_cuts
from tests.support.virtual_board import Desk

pytestmark = pytest.mark.long
MakeBundle = Callable[[int], Path]
PLACE = "/var/lib/aerogaze/"


@pytest.fixture(scope="module")
def announcing_disk(desk: Desk, flown_disk: Path) -> Path:
    """Disk of a board that flies counter 1 and announces its steps."""
    image = desk.clone(flown_disk, "announcing.img")
    install_steps(image, desk.folder / "install")
    return image


@pytest.fixture(scope="module")
def cuts(announcing_disk: Path, desk: Desk, images: BoardImages, bundles: MakeBundle) -> list[Cut]:
    """What a cut leaves before each step of a flash from counter 1 to 2."""
    with desk.board(desk.clone(announcing_disk, "install.img")) as board:
        board.start()
        with recorded_cuts(board, "cut") as recorder:
            flash(images, board, bundles(2))
        assert check_flown(board, {2}) == 2
        assert find_orphans(board) == []
        return recorder.cuts


def find_last_cut(cuts: list[Cut], step: str) -> Cut:
    return next(cut for cut in reversed(cuts) if step in cut.step)


def boot_after_cut(
    cut: Cut, desk: Desk, images: BoardImages, counters: set[int], next_bundle: Path | None
) -> list[Cut]:
    """Boot what a cut left, check it, and flash the next release if there is one.

    Returns:
        What cuts before each step of the recovery at boot leave.
    """
    with desk.board(desk.clone(cut.image, "after.img")) as board:
        with recorded_cuts(board, f"{cut.image.stem}-again") as recovery:
            board.start()
        check_flown(board, counters)
        if next_bundle:
            flash(images, board, next_bundle)
            assert check_flown(board, {3}) == 3
            assert find_orphans(board) == [], cut.step
    return recovery.cuts


def test_steps_of_an_install_are_announced_in_order(cuts: list[Cut]) -> None:
    steps = iter([cut.step for cut in cuts])
    for phase in (
        f"write {PLACE}lock",
        f"write {PLACE}running.json",
        f"rename {PLACE}state.json",
        f"mkdir {PLACE}slots/b",
        f"write {PLACE}slots/b/release",
        f"sync {PLACE}slots/b",
        f"try {PLACE}slots/b/release/golden.npz",
        f"rename {PLACE}state.json",
        "run systemctl restart aerogaze",
        "run systemctl is-active --quiet aerogaze",
        f"rename {PLACE}state.json",
        f"remove {PLACE}running.json",
    ):
        assert any(step.startswith(phase) for step in steps), phase


@pytest.mark.parametrize(
    "step",
    [
        "sync /var/lib/aerogaze/slots/b/release",
        "run systemctl is-active",
    ],
)
def test_board_flies_after_a_cut_while_it_writes_and_while_it_watches(
    step: str, cuts: list[Cut], desk: Desk, images: BoardImages, bundles: MakeBundle
) -> None:
    recovery = boot_after_cut(find_last_cut(cuts, step), desk, images, {1}, bundles(3))
    if "is-active" in step:
        assert any("state.json" in cut.step for cut in recovery), "the trial was reverted at boot"
        # The plug is pulled again, when the recovery is about to rename the state.
        again = find_last_cut(recovery, "rename /var/lib/aerogaze/state.json")
        boot_after_cut(again, desk, images, {1}, None)
