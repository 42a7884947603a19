"""Arrays of an uncompressed .npz file as views of the memory-mapped file."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_OPEN_FILES = 512
"""Files that a process keeps mapped, each with one file handle."""


@lru_cache(MAX_OPEN_FILES)
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
