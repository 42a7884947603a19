"""File operations of a board that are durable: when a call returns, its change survives a power cut.

All changes of a board's folder go through `DurableDisk`. Tests interrupt it at each step, and remove what
was not yet synchronized.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class DurableDisk:
    """Durable file operations; symbolic links are never followed.

    Raises (all methods):
        OSError: The system reports an error.
    """

    def step(self, operation: str, path: Path) -> None:
        """Run before each system call that changes the disk. Does nothing; tests override it."""

    def mkdir(self, path: Path) -> None:
        """Create a folder if it does not exist."""
        if not path.is_dir():
            self.step("mkdir", path)
            os.mkdir(path, 0o755)  # whatever the umask, only the owner may write into it
            self.sync(path.parent)

    def write(self, path: Path, blocks: Iterable[bytes]) -> None:
        """Write a new file and synchronize its data. Its name is durable after `sync` of its folder."""
        self.step("open", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            for block in blocks:
                self.step("write", path)
                remaining = memoryview(block)
                while remaining:
                    remaining = remaining[os.write(descriptor, remaining) :]
            self.step("fsync", path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a small file by one rename: the path holds either the old or the new content, complete."""
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
        """Remove a file, or a folder with its content, if it exists."""
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                self.remove(entry)
            self.step("rmdir", path)
            os.rmdir(path)
        elif os.path.lexists(path):
            self.unlink(path)

    def sync(self, folder: Path) -> None:
        """Synchronize the names in a folder."""
        self.step("sync", folder)
        _fsync(folder, os.O_DIRECTORY)

    def sync_tree(self, folder: Path) -> None:
        """Synchronize all files in a folder that other code has written."""
        for entry in sorted(folder.iterdir()):
            if entry.is_dir():
                self.sync_tree(entry)
            else:
                self.step("fsync", entry)
                _fsync(entry, os.O_NOFOLLOW)
        self.sync(folder)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
