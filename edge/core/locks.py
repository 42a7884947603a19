"""Locks between processes; the kernel releases them when their process ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError


@contextmanager
def writer_lock(target: Path) -> Iterator[None]:
    """Hold an exclusive lock for writing `target`, by a lock file next to it that is removed afterwards.

    The lock is on the open file, so a lock file that a killed process left behind blocks nothing.

    Raises:
        InputError: Another process holds the lock, or the folder cannot be written.
    """
    path = target.parent / f".{target.name}.lock"
    with translate_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path)
    if handle is None:
        raise InputError(
            f"{target} is being written by another aerogaze; wait for it, or choose another path"
        )
    try:
        yield
    finally:
        # Remove the file while it is locked: otherwise another process could lock a file without a name.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None if another process holds it."""
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
        os.close(handle)  # the previous holder removed the file between open and flock: try again


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold an exclusive, machine-wide lock for reading a device.

    The lock is a name in the kernel's abstract socket space. It needs no file and no write permission.

    Raises:
        InputError: Another run holds the lock.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0aerogaze/{device}")
        except OSError:
            raise InputError(
                f"{device} is read by another aerogaze run; expected one run per camera: end that one first"
            ) from None
        yield
