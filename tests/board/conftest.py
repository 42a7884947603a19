"""Virtual boards for these tests: made once, started from clones of their disks.

All tests here run in one worker (`xdist_group`), because they share the desk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.board_images import BoardImages, cached_images, install_code
from tests.support.virtual_board import Board, Desk, desk_with_disk, missing_for_boards

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("board"))
            item.add_marker(pytest.mark.first)


@pytest.fixture(scope="session")
def images() -> BoardImages:
    """Disks of boards, from the cache."""
    reason = missing_for_boards()
    if reason:
        pytest.skip(reason)
    try:
        return cached_images()
    except RuntimeError as error:
        pytest.skip(f"the disks of virtual boards cannot be made: {error}")


@pytest.fixture(scope="session")
def desk(images: BoardImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The desk that all boards are connected to."""
    with desk_with_disk(tmp_path_factory.mktemp("desk"), images.identity) as desk:
        yield desk


@pytest.fixture(scope="session")
def flown_disk(images: BoardImages, desk: Desk) -> Path:
    """Disk of a board that flies counter 1 with the code of this checkout; tests clone it."""
    image = desk.clone(images.flown, "flown.img")
    install_code(image, desk.folder / "install")
    return image


@pytest.fixture(scope="session")
def bundles(images: BoardImages, desk: Desk) -> Callable[[int], Path]:
    """Bundles of a small release by their counter."""

    def bundle(counter: int) -> Path:
        path = desk.folder / f"{counter}.swu"
        return path if path.exists() else images.write_bundle(path, counter)

    return bundle


@pytest.fixture(scope="module")
def board(desk: Desk, flown_disk: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A running board of this module. It flies counter 1 at first."""
    with desk.board(desk.clone(flown_disk, f"{request.module.__name__.rpartition('.')[2]}.img")) as board:
        board.start()
        yield board
