"""One writer at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.core.atomic_files import writing
from edge.core.errors import InputError


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Hold the right to write `target`, by a lock file beside it, which is gone afterwards.

    The kernel keeps the lock, not the file: a file left by a kill locks nobody out.

    Raises:
        InputError: another process holds it, or there is no writing there.
    """
    path = target.parent / f".{target.name}.lock"
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(path)
    if handle is None:
        raise InputError(f"{target} is being written by another aerogaze; wait for it, or name another place")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while the lock is held, so that nobody holds a file that is gone
        os.close(handle)


def _locked(path: Path) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        os.close(handle)  # the last holder removed it between our two calls: make it anew


@contextmanager
def only_user(device: str) -> Iterator[None]:
    """Hold the right to read a device, machine-wide, by a name in the kernel's abstract socket space.

    No file is left, whoever may write where, and the kernel takes the name back when the process ends.

    Raises:
        InputError: another run holds it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0aerogaze/{device}")
        except OSError:
            raise InputError(
                f"{device} is read by another aerogaze run; expected one run a camera: end that one first"
            ) from None
        yield
