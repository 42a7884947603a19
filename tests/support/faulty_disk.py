"""A disk with errors for a virtual board: a FUSE file system that shows another folder. It runs on the board.

    python3 faulty_disk.py FOLDER PLACE FAULTS

FAULTS is a file with the names of the operations that end with EIO, such as `fsync write`.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from fusepy import FUSE, FuseOSError, Operations


class FaultyDisk(Operations):  # type: ignore[misc]
    """Shows a folder and all changes of it; the operations that a file names fail.

    Args:
        folder: The folder to show.
        faults: File with the names of the operations that fail.
    """

    def __init__(self, folder: str, faults: Path) -> None:
        self._folder, self._faults = folder, faults

    def __call__(self, operation: str, path: str, *arguments: Any) -> Any:
        if operation in self._faults.read_text().split():
            raise FuseOSError(errno.EIO)
        if not hasattr(self, operation):
            raise FuseOSError(errno.EFAULT)
        return getattr(self, operation)(self._folder + path, *arguments)

    def getattr(self, path: str, handle: int | None = None) -> dict[str, Any]:
        status = os.lstat(path)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}

    def statfs(self, path: str) -> dict[str, Any]:
        status = os.statvfs(path)
        return {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}

    def readdir(self, path: str, handle: int) -> list[str]:
        return [".", "..", *os.listdir(path)]

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags)

    def create(self, path: str, mode: int, info: object = None) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        return os.pread(handle, size, offset)

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        return os.pwrite(handle, data, offset)

    def fsync(self, path: str, datasync: int, handle: int) -> None:
        os.fsync(handle)

    def release(self, path: str, handle: int) -> None:
        os.close(handle)

    def truncate(self, path: str, length: int, handle: int | None = None) -> None:
        os.truncate(path, length)

    def rename(self, path: str, new: str) -> None:
        os.rename(path, self._folder + new)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        os.utime(path, times)


if __name__ == "__main__":
    served, place, faults = sys.argv[1:]
    FUSE(
        FaultyDisk(served, Path(faults)),
        place,
        foreground=True,
        nothreads=True,
        allow_other=True,
        default_permissions=True,
        nonempty=True,
    )
