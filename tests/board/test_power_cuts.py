"""The plug is pulled in each phase of an install, in its recovery, and at random: a signed release flies."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jetson.wheels.self_wheel import PACKAGES as OWN_PACKAGES
from tests.support.board_images import ROOT, BoardImages, aerogaze, flash
from tests.support.power_cuts import Cut, check_flown, find_orphans, install_steps, recorded_cuts
from tests.support.virtual_board import Desk

RANDOM_CUTS = int(os.environ.get("AEROGAZE_CUTS", 100))
RANDOM_SEED = int(os.environ.get("AEROGAZE_CUTS_SEED", 22))
"""Number and seed of the cuts at random moments."""
CUTS_OF_A_TEST = 10
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


def find_phases(cuts: list[Cut], phases: tuple[str, ...]) -> list[Cut]:
    """Return the cut before each phase: the first one after the phase before it whose step begins so."""
    remaining = iter(cuts)
    found = [next((cut for cut in remaining if cut.step.startswith(phase)), None) for phase in phases]
    return [cut for cut in found if cut]


def boot_after_cut(
    cut: Cut, desk: Desk, images: BoardImages, counters: set[int], next_bundle: Path | None = None
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


PHASES = (
    f"write {PLACE}lock",
    f"write {PLACE}running.json.new",
    f"write {PLACE}state.json.new",
    f"rename {PLACE}state.json",
    f"mkdir {PLACE}slots/b",
    f"write {PLACE}slots/b/release",
    f"write {PLACE}slots/b/manifest.json",
    f"sync {PLACE}slots/b",
    f"try {PLACE}slots/b/release/golden.npz",
    f"rename {PLACE}state.json",
    "run systemctl restart aerogaze",
    "run systemctl is-active --quiet aerogaze",
    f"rename {PLACE}state.json",
    f"remove {PLACE}running.json",
)
"""Phases of an install by the steps that they begin with."""
ON_TRIAL = range(PHASES.index("run systemctl restart aerogaze"), len(PHASES) - 1)
"""Numbers of the phases in which a cut leaves a trial."""


def test_phases_of_an_install_are_announced_in_order(cuts: list[Cut]) -> None:
    found = [cut.step for cut in find_phases(cuts, PHASES)]
    assert len(found) == len(PHASES), (found, [cut.step for cut in cuts])


@pytest.mark.parametrize("number", range(len(PHASES)), ids=lambda number: PHASES[number])
def test_board_flies_after_a_cut_in_each_phase_and_in_its_recovery(
    number: int, cuts: list[Cut], desk: Desk, images: BoardImages, bundles: MakeBundle
) -> None:
    counter = 2 if number > ON_TRIAL[-1] else 1
    recovery = boot_after_cut(find_phases(cuts, PHASES)[number], desk, images, {counter}, bundles(3))
    assert (number in ON_TRIAL) == any("state.json" in cut.step for cut in recovery), "reverted at boot"
    for phase in find_phases(recovery, RECOVERY_PHASES):
        boot_after_cut(phase, desk, images, {counter})


RECOVERY_PHASES = (
    f"write {PLACE}running.json.new",
    f"write {PLACE}state.json.new",
    f"rename {PLACE}state.json",
    f"remove {PLACE}running.json",
)
"""Phases of `device boot` after a cut that left a trial."""


@pytest.fixture(scope="module")
def next_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with other code than that of this checkout, by one comment: boards need a new runtime for it."""
    folder = tmp_path_factory.mktemp("next")
    for name in OWN_PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "jetson/__init__.py").open("a") as file:
        file.write("# The next version.\n")
    return folder


RUNTIME_PHASES = (
    "write /opt/aerogaze.runtimes/lock",
    "run /usr/bin/python3 -m venv",
    "run /opt/aerogaze.runtimes/",  # pip
    "run /opt/aerogaze.runtimes/",  # the trial of the new runtime
    "sync all",
    "write /opt/aerogaze.runtimes/",
    "rename /opt/aerogaze.runtimes/",
    "symlink ",
    "rename /opt/aerogaze",
)
"""Phases of an upgrade of the runtime."""


@pytest.fixture(scope="module")
def runtime_cuts(
    announcing_disk: Path, desk: Desk, images: BoardImages, bundles: MakeBundle, next_code: Path
) -> list[Cut]:
    """What a cut leaves before each step of a new runtime for a board that flies counter 1."""
    with desk.board(desk.clone(announcing_disk, "runtime.img")) as board:
        board.start()
        with recorded_cuts(board, "runtime") as recorder:
            flash(images, board, bundles(2), "--runtime", code=next_code)
        assert check_flown(board, {2}) == 2
        assert find_orphans(board) == []
        return [cut for cut in recorder.cuts if "/opt/aerogaze" in cut.step or cut.step == "sync all"]


def test_phases_of_a_new_runtime_are_announced_in_order(runtime_cuts: list[Cut]) -> None:
    found = [cut.step for cut in find_phases(runtime_cuts, RUNTIME_PHASES)]
    assert len(found) == len(RUNTIME_PHASES), (found, [cut.step for cut in runtime_cuts])


@pytest.mark.parametrize("number", range(len(RUNTIME_PHASES)), ids=lambda number: RUNTIME_PHASES[number])
def test_board_flies_after_a_cut_in_each_phase_of_a_new_runtime(
    number: int,
    runtime_cuts: list[Cut],
    desk: Desk,
    images: BoardImages,
    bundles: MakeBundle,
    next_code: Path,
) -> None:
    cut = find_phases(runtime_cuts, RUNTIME_PHASES)[number]
    with desk.board(desk.clone(cut.image, "after.img")) as board:
        board.start()
        check_flown(board, {1})
        flash(images, board, bundles(2), "--runtime", code=next_code)
        assert check_flown(board, {2}) == 2
        assert find_orphans(board) == [], cut.step


@pytest.mark.parametrize("first", range(0, RANDOM_CUTS, CUTS_OF_A_TEST))
def test_board_flies_after_cuts_at_random_moments(
    first: int, announcing_disk: Path, desk: Desk, images: BoardImages, bundles: MakeBundle
) -> None:
    generator = random.Random(RANDOM_SEED + first)  # noqa: S311
    done, end = first, min(first + CUTS_OF_A_TEST, RANDOM_CUTS)
    while done < end:
        cuts: list[Cut] = []
        with desk.board(desk.clone(announcing_disk, "random.img")) as board:
            board.start()
            words = desk.command(*aerogaze(*board.flash_words(bundles(2))))
            with subprocess.Popen(
                words,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **images.desk_environment()},
            ) as process:
                while process.poll() is None and done + len(cuts) < end:
                    time.sleep(3 * generator.random())
                    name = f"random-{done + len(cuts)}"
                    cuts.append(Cut(name, board.clone_disk(f"{name}.img")))
                assert not process.poll(), "the flash works"
                process.kill()
        for cut in cuts:
            done += 1
            next_bundle = bundles(3) if done % 5 == 0 else None
            boot_after_cut(cut, desk, images, {1, 2}, next_bundle)
            cut.image.unlink()
