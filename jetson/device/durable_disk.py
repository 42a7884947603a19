"""Every change that is made to a board's disk goes through here, and is on the disk when it returns.

Tests stop it at each step, and take away what was not yet on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class DurableDisk:
    """Writes, renames and removes; links are never followed.

    Raises:
        OSError: as the system says it.
    """

    def step(self, what: str, path: Path) -> None:
        """Be told before each call that changes the disk. Does nothing; tests do."""

    def mkdir(self, path: Path) -> None:
        """Make a folder, if it is not there."""
        if not path.is_dir():
            self.step("mkdir", path)
            os.mkdir(path)
            self.sync(path.parent)

    def write(self, path: Path, blocks: Iterable[bytes]) -> None:
        """Write a new file and see its data onto the disk. Its name is there after `sync` of its folder."""
        self.step("open", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o644)
        try:
            for block in blocks:
                self.step("write", path)
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(handle, rest) :]
            self.step("fsync", path)
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a small file in its place with one rename: it is the old one or the new one, whole."""
        pending = path.with_name(path.name + ".new")
        if os.path.lexists(pending):
            self.unlink(pending)
        self.write(pending, [data])
        self.step("rename", path)
        os.rename(pending, path)
        self.sync(path.parent)

    def unlink(self, path: Path) -> None:
        """Remove a file or link."""
        self.step("unlink", path)
        os.unlink(path)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                self.remove(entry)
            self.step("rmdir", path)
            os.rmdir(path)
        elif os.path.lexists(path):
            self.unlink(path)

    def sync(self, folder: Path) -> None:
        """See the names in a folder onto the disk."""
        self.step("sync", folder)
        _fsync(folder, os.O_DIRECTORY)

    def sync_tree(self, folder: Path) -> None:
        """See onto the disk what others wrote into a folder."""
        for entry in sorted(folder.iterdir()):
            if entry.is_dir():
                self.sync_tree(entry)
            else:
                self.step("fsync", entry)
                _fsync(entry, os.O_NOFOLLOW)
        self.sync(folder)


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
