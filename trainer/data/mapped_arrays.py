"""Arrays of an uncompressed .npz file as views of the mapped file, and a cache of what files contain."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_OPEN_FILES = 512
"""Files that a process keeps mapped, each with one file handle."""

Read = TypeVar("Read")


def cached_per_file(maxsize: int) -> Callable[[Callable[[Path], Read]], Callable[[Path], Read]]:
    """Return a decorator that caches what a function reads from a file until another file has its path.

    A shard that is written again has the path of the old one. A process such as a notebook may read both.

    Args:
        maxsize: Number of files whose result is kept.
    """

    def decorate(read: Callable[[Path], Read]) -> Callable[[Path], Read]:
        @lru_cache(maxsize)
        def read_cached(path: Path, _identity: tuple[int, ...]) -> Read:
            return read(path)

        @wraps(read)
        def read_present(path: Path) -> Read:
            try:
                status = path.stat()
            except OSError:
                return read(path)  # it says what is wrong
            return read_cached(path, (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))

        return read_present

    return decorate


@cached_per_file(MAX_OPEN_FILES)
def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file that `numpy.savez` wrote; only the parts that are used are read."""
    data = np.memmap(path, np.uint8, "r")
    arrays: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as members:
        for info in members.infolist():
            # A local header is 30 bytes, a name and an extra field; its last two numbers are their lengths.
            lengths = data[info.header_offset + 26 : info.header_offset + 30].view("<u2")
            file.seek(info.header_offset + 30 + int(lengths.sum()))
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            size = int(np.prod(shape)) * dtype.itemsize
            flat: NDArray[Any] = data[file.tell() : file.tell() + size]
            arrays[info.filename.removesuffix(".npy")] = flat.view(dtype).reshape(shape)
    return arrays
