"""Things that take long to make and that no test changes: each is made once in a run of the tests."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


class MadeOnce:
    """Folders that all workers of a run share. The first test that needs one makes it.

    Args:
        root: Folder of the run, the same for all of its workers.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder of a name, and fill it if it does not exist yet.

        Tests only read the folder. A test that changes something copies it first.

        Args:
            name: Name of the folder. It states every setting that `make` depends on.
            make: Writes the contents into an empty folder. Other workers wait meanwhile.
        """
        folder, pending = self._root / name, self._root / f"{name}.pending"
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(pending, ignore_errors=True)  # of a worker in which `make` failed
                pending.mkdir()
                make(pending)
                pending.rename(folder)
        return folder


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of the whole run, which contains those of its workers."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base
