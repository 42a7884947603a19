"""Readers of files from elsewhere, with limits on size, depth and kind.

A file may come from another person, a server or a damaged disk. Each reader here ends with one error of one
line, within a bound of memory, whatever the bytes are.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import stat
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from edge.core.errors import InputError

MAX_DEPTH = 64
"""Deepest nesting of a document. Ours have at most 10 levels."""
MAX_DOCUMENT_BYTES = 64 << 20
MAX_INTEGER_DIGITS = 20
"""Digits of an integer in a document; 64 bits have at most 20."""
MAX_ARRAY_BYTES = 2 << 30
PIPE_TIMEOUT_S = 60.0
"""Longest wait for the content of a pipe: a person may have to enter a password first."""


def read_bytes(path: Path, max_bytes: int, expected: str, accepts_pipe: bool = False) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file. A device is refused, and so is a pipe, since reading it could wait for ever.
        max_bytes: Largest accepted size.
        expected: What the file should be, for error messages.
        accepts_pipe: Read a pipe as well, such as /dev/stdin or a shell's <(...). It can be read only once,
            and must be complete within `PIPE_TIMEOUT_S`.

    Raises:
        InputError: The file cannot be read, is not a regular file, or is larger.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            mode = os.fstat(file.fileno()).st_mode
            if accepts_pipe and stat.S_ISFIFO(mode):
                data = _read_pipe(file.fileno(), max_bytes)
            elif stat.S_ISREG(mode):
                data = file.read(max_bytes + 1)
            else:
                raise InputError(f"{path} is not a regular file; expected {expected}: name another file")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; expected {expected}") from None
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"cannot read {str(path)!r}: {error}; expected {expected}") from None
    if len(data) > max_bytes:
        raise InputError(f"{path} is larger than {max_bytes} bytes; expected {expected}: name another file")
    return data


def _read_pipe(handle: int, max_bytes: int) -> bytes:
    """Return what is written to a pipe until its writers close it, or one byte more than `max_bytes`.

    Raises:
        TimeoutError: It is not complete in time.
    """
    end_s = time.monotonic() + PIPE_TIMEOUT_S
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    data = b""
    while len(data) <= max_bytes:
        remaining_s = end_s - time.monotonic()
        if remaining_s <= 0 or not poller.poll(remaining_s * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"nobody completes it within {PIPE_TIMEOUT_S:g} s")
        block = os.read(handle, max_bytes + 1 - len(data))
        if not block:
            break
        data += block
    return data


def is_missing(path: Path) -> bool:
    """Return whether nothing is at a path. One in a folder that this user may not search is not missing."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # reading the file says why
        return False
    return False


def read_json(path: Path, expected: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: As `read_bytes`, or the content is no JSON object within the limits of `parse_json`.
    """
    try:
        document = parse_json(read_bytes(path, max_bytes, expected))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); expected {expected}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} cannot be read as JSON (no object); expected {expected}")
    return document


def parse_json(data: bytes | str) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: The data is no JSON, is nested deeper than `MAX_DEPTH`, or has a number that is not finite
            or an integer of more than `MAX_INTEGER_DIGITS`.
    """
    try:
        document = json.loads(
            data, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    check_depth(document)
    return document


def check_depth(document: Any) -> None:
    """Check that a document of tables and lists is not nested too deeply.

    Raises:
        ValueError: It is nested deeper than `MAX_DEPTH`.
    """
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _parse_integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _parse_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:MAX_INTEGER_DIGITS]} is not finite")
    return number


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def read_arrays(
    path: Path, names: Sequence[str], expected: str, max_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, NDArray[Any]]:
    """Return arrays of an .npz file. Arrays of objects, which could run code, are refused.

    Args:
        path: The file.
        names: Names of the arrays.
        expected: What the file should be, for error messages.
        max_bytes: Largest accepted size of each array, unpacked.

    Raises:
        InputError: The file cannot be read, is damaged or encrypted, lacks an array, or an array is larger.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path} is not a regular file; expected {expected}")
            with zipfile.ZipFile(file) as archive:
                return {name: _read_member(archive, f"{name}.npy", max_bytes) for name in names}
    except InputError:
        raise
    except Exception as error:  # the parsers of zip files and of NumPy's headers raise errors of many kinds
        reason = error.strerror if isinstance(error, OSError) else error
        text = " ".join(str(reason or type(error).__name__).split())
        raise InputError(f"{path} cannot be read ({text[:200]}); expected {expected}") from None


def _read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> NDArray[Any]:
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise ValueError(f"{name} is encrypted, or compressed in a way that NumPy does not write")
    if member.file_size > max_bytes:
        raise ValueError(f"{name} has {member.file_size} bytes, at most {max_bytes} are read")
    with archive.open(member) as data:
        size_bytes = _array_bytes(data) + data.tell()
        if size_bytes != member.file_size:
            raise ValueError(f"{name} has {member.file_size} bytes, its header says {size_bytes}")
    # The size is known to be bounded now, so that this allocates no more.
    with archive.open(member) as data:
        return np.asarray(npy_format.read_array(data, allow_pickle=False))


def _array_bytes(data: IO[bytes]) -> int:
    """Return the size of an array by its header, which is read."""
    version = npy_format.read_magic(data)
    if version == (1, 0):
        shape, _, dtype = npy_format.read_array_header_1_0(data)
    elif version == (2, 0):
        shape, _, dtype = npy_format.read_array_header_2_0(data)
    else:
        raise ValueError(f"version {version} of its format")
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if any(side < 0 for side in shape):
        raise ValueError(f"its shape is {shape}")
    return math.prod(shape) * dtype.itemsize


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file; a named pipe would otherwise block until it has a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
