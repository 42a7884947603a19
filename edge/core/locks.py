"""Locks between processes; the kernel releases them when their process ends.

A lock that other users could hold would let them stop the commands of the owner. Lock files are therefore
readable and writable for their owner only, and the holder of a name in the kernel is checked.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json, read_bytes

LOG = logging.getLogger("aerogaze")
MAX_MARKER_BYTES = 4096
ASK_ATTEMPTS, ASK_INTERVAL_S = 50, 0.02
"""How often, and after how many seconds, the holder of a device is asked again if too many ask it."""
_OPEN_TO_OTHERS = 0o077
_LOCK_FORMAT = "hhqqi4x"
"""`struct flock` of 64-bit Linux: kind, origin, start, length (0: the whole file), process."""


@contextmanager
def writer_lock(target: Path) -> Iterator[None]:
    """Hold an exclusive lock for writing `target`, by a lock file next to it that is removed afterwards.

    The lock is on the open file, so a lock file that a killed process left behind blocks nothing.

    Raises:
        InputError: Another process holds the lock, the lock file belongs to another user, or the folder
            cannot be written.
    """
    path = target.parent / f".{target.name}.lock"
    with translate_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = acquire_lock(path)
        except PermissionError:
            if not path.exists():
                raise
            raise InputError(
                f"{target} is locked by another user: wait until their aerogaze has ended, or remove {path}"
            ) from None
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


def acquire_lock(path: Path) -> int | None:
    """Lock a file that only its owner can open; it is created if it does not exist.

    Older versions made lock files that every user may open, and so lock. Such a file is replaced, unless a
    process of the file's owner or of root holds its lock.

    Returns:
        The descriptor of the locked file, to be closed to release the lock; None if another process of the
        file's owner or of root holds it.

    Raises:
        OSError: The file cannot be opened.
    """
    while True:
        handle = _open_lock(path)
        if os.fstat(handle).st_mode & _OPEN_TO_OTHERS:
            is_held = _is_held_by_owner(handle)
            os.close(handle)
            if is_held or not _replace_open_lock(path):
                return None
            continue
        if not _try_flock(handle):
            os.close(handle)
            return None
        if _is_named(handle, path):
            return handle
        os.close(handle)  # the previous holder removed the file between open and flock: try again


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try_flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(handle: int, path: Path) -> bool:
    """Return whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _replace_open_lock(path: Path) -> bool:
    """Replace a lock file that other users can open; return False if another process is about to do so."""
    pending = path.with_name(path.name + ".new")
    handle = _open_lock(pending)
    try:
        # Only the process that holds the pending file may rename it, so that no two replace each other's.
        if not _try_flock(handle) or not _is_named(handle, pending):
            return False
        if os.lstat(path).st_mode & _OPEN_TO_OTHERS:
            os.rename(pending, path)
        else:
            os.unlink(pending)  # another process has replaced it meanwhile
    finally:
        os.close(handle)
    return True


def _is_held_by_owner(handle: int) -> bool:
    """Return whether a process of the file's owner, of this user or of root holds the lock of a file."""
    status = os.fstat(handle)
    users = {0, os.geteuid(), status.st_uid}
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return not _try_flock(handle)
    # A row is: number, kind, ADVISORY, WRITE or READ, process, device:inode, range. The device is not
    # compared: on overlay file systems it is another one than that of the status.
    inode = str(status.st_ino)
    holders = [row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5].endswith(f":{inode}")]
    # The real user, who started the process: a program such as sudo changes the others.
    return any(users & set(_process_ids(holder, "Uid")[:1]) for holder in holders)


def _process_ids(process: int | str, key: str) -> list[int]:
    """Return the ids of a process under a key of its status, such as "Uid"; none if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [int(word) for line in lines if line.startswith(key + ":") for word in line.split()[1:]]


@contextmanager
def running_marker(path: Path) -> Iterator[None]:
    """Keep a file that tells all users that this process runs, as long as the block runs.

    A lock that only its owner can open tells them nothing. This file is open to all readers, and this process
    holds a lock for writing on it, which no reader can take. See `is_running`.

    Raises:
        OSError: The file cannot be written.
    """
    pending = path.with_name(path.name + ".new")
    pending.unlink(missing_ok=True)
    document = {"pid": os.getpid(), "started": _start_ticks(os.getpid()), "boot": _boot_id()}
    handle = os.open(pending, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Before others may open the file: a reader's lock would prevent this one.
        is_locked = _try_file_lock(handle, fcntl.F_WRLCK)
        os.write(handle, json.dumps({**document, "locked": is_locked}).encode())
        os.fchmod(handle, 0o644)
        pending.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def is_running(path: Path) -> bool:
    """Return whether the process that wrote a marker still runs.

    The kernel knows it: it drops the lock of a process that ends, however it ends, and no lock outlives a
    boot. So the answer is the same in each container and sandbox that sees the file.

    A marker without a lock (of an older version, or where the kernel has no such locks) counts if a process
    has the number and the start time that it names, since the same boot.
    """
    try:
        document = parse_json(read_bytes(path, MAX_MARKER_BYTES, "a marker"))
        process, started, boot = document["pid"], document["started"], document["boot"]
        if document.get("locked") is True:
            return _has_file_lock(path, fcntl.F_RDLCK)
    except (InputError, OSError, ValueError, TypeError, KeyError):
        return False
    if type(process) is not int or process <= 0 or boot != _boot_id():
        return False
    ticks = _start_ticks(process)
    if ticks is not None or not isinstance(started, int):
        return bool(ticks == started)
    try:  # /proc may hide the processes of other users (mount option hidepid)
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def running_process(path: Path) -> int | None:
    """Return the number of the process that wrote a marker; None if it has ended or wrote none.

    If the process runs in a container, this is its number inside the container.
    """
    try:
        process = parse_json(read_bytes(path, MAX_MARKER_BYTES, "a marker"))["pid"]
    except (InputError, OSError, ValueError, TypeError, KeyError):
        return None
    return process if type(process) is int and process > 0 and is_running(path) else None


def mark_in_use(path: Path) -> bool:
    """Mark a file as used by this process, and by the programs that replace it, until they end.

    The mark is a shared lock on an inherited descriptor: it needs no write permission, survives exec, and the
    kernel removes it. See `is_in_use`.

    Returns:
        Whether the file could be marked.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    if not _try_file_lock(handle, fcntl.F_RDLCK):
        os.close(handle)
        return False
    os.set_inheritable(handle, True)
    return True


def is_in_use(path: Path) -> bool:
    """Return whether a process has marked this very file as used; one that replaced it since is another."""
    try:
        return _has_file_lock(path, fcntl.F_WRLCK)
    except OSError:
        return False


def _try_file_lock(handle: int, kind: int) -> bool:
    """Lock an open file for all that share its descriptor; return False if that is not possible."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _lock_request(kind))
    except OSError:
        return False
    return True


def _has_file_lock(path: Path, kind: int) -> bool:
    """Return whether a lock on a file excludes one of this kind. It is asked for, and never taken.

    Raises:
        OSError: The file cannot be opened, or the kernel has no such locks.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _lock_request(kind))
    finally:
        os.close(handle)
    return bool(struct.unpack(_LOCK_FORMAT, answer)[0] != fcntl.F_UNLCK)


def _lock_request(kind: int) -> bytes:
    return struct.pack(_LOCK_FORMAT, kind, os.SEEK_SET, 0, 0, 0)


def _start_ticks(process: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it is not visible."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[19])  # field 22; the name before may hold anything
    except (OSError, ValueError, IndexError):
        return None


def _boot_id() -> str:
    """Return the id of this boot of the kernel; empty if it is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold an exclusive, machine-wide lock for reading a device.

    The lock is a name in the kernel's abstract socket space. It needs no file and no write permission. Every
    user may take such a name, so one that is held by a user who cannot read the device is ignored.

    Raises:
        InputError: Another run holds the lock.
    """
    name = f"\0aerogaze/{device}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(name)
            lock.listen()
        except OSError:
            if _may_read(device, _name_holder(name)):
                raise InputError(
                    f"{device} is read by another aerogaze run; expected one run per camera: end that one "
                    "first"
                ) from None
            LOG.warning("the lock of %s is held by a user who cannot read it: it is ignored", device)
            yield
            return
        # Nobody could ask for the holder any more if the queue of connections was full.
        acceptor = threading.Thread(target=_drop_connections, args=(lock,), daemon=True)
        acceptor.start()
        try:
            yield
        finally:
            lock.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
            acceptor.join()


def _drop_connections(lock: socket.socket) -> None:
    with suppress(OSError):
        while True:
            lock.accept()[0].close()


def _name_holder(name: str) -> tuple[int, int] | None:
    """Return process and user that hold a name in the abstract socket space; None if none can be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        for _ in range(ASK_ATTEMPTS):
            try:
                client.connect(name)
                break
            except BlockingIOError:  # its queue is full: the holder empties it
                time.sleep(ASK_INTERVAL_S)
            except OSError:
                return None
        else:
            return None
        process, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user


def _may_read(device: str, holder: tuple[int, int] | None) -> bool:
    """Return whether a process may read a device, so that it can be a run of its own right."""
    if holder is None:
        return False
    process, user = holder
    if user in (0, os.geteuid()):
        return True
    try:
        node = os.stat(device)
    except OSError:  # it has no node: the sensor of a CSI camera
        return False
    groups = {*_process_ids(process, "Groups"), *_process_ids(process, "Gid")}
    is_in_group = bool(node.st_mode & stat.S_IRGRP) and node.st_gid in groups
    return bool(node.st_mode & stat.S_IROTH) or user == node.st_uid or is_in_group
