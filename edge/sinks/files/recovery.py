"""Recordings that survived a run which was killed: found, renamed and named at the next start.

Outputs have hidden temporary names until the run ends. Each run holds locks on its own; the kernel releases
them when the process ends, however it ends. So an output without a lock is left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import cv2

from edge.core.atomic_files import PendingFile, current_umask
from edge.core.foreign_text import printable

_RANDOM = "[a-z0-9_]{8}"
"""What `tempfile` puts into a temporary name."""
NEW = ".new"
"""After the temporary name of a file: its next content, while it is written."""
_MCAP_MAGIC_BYTES, _MCAP_START_BYTES, _MCAP_CHUNK = 8, 9, 6
"""Bytes before the first record of an MCAP file and before the content of each, and the opcode of a chunk."""
VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi"}


class OutputLock:
    """Lock on the temporary file or folder of an output, until it is released or the process ends.

    Between its creation and the lock, another run may take the output for a leftover and remove it, since it
    is still empty. Then it is created again.

    Args:
        path: The temporary file or folder, still empty.
        is_folder: Whether it is a folder.
    """

    def __init__(self, path: Path, is_folder: bool = False) -> None:
        while True:
            if is_folder:
                path.mkdir(exist_ok=True)
            flags = os.O_RDONLY | (os.O_DIRECTORY if is_folder else os.O_CREAT) | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(path, flags, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)  # another run holds it for the moment of its check alone
            if _is_named(handle, path):
                self._handle: int | None = handle
                return
            os.close(handle)

    def release(self) -> None:
        """Release the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class LockedFile(PendingFile):
    """A pending file that no other run takes for a leftover of a run that was killed.

    Args:
        target: Path of the output.

    Raises:
        InputError: As of a pending file.
    """

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._lock = OutputLock(self.path)

    def replace_content(self, data: bytes) -> None:
        """Write the whole content at once: a run that is killed meanwhile leaves the content before.

        Raises:
            OSError: The content cannot be written; the file stays as it was.
        """
        new = self.path.with_name(self.path.name + NEW)
        lock = OutputLock(new)
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            lock.release()
            raise
        self._lock.release()
        self._lock = lock

    def commit(self) -> None:
        """Move the file to its target and release its lock."""
        super().commit()
        self._lock.release()

    def discard(self) -> None:
        """Remove the file and release its lock."""
        super().discard()
        self._lock.release()


def recover_outputs(target: Path) -> list[str]:
    """Give visible names to what killed runs left of an output; return a line for each.

    A file becomes `NAME.recovered-N.SUFFIX` beside the target. A video that cannot be played keeps its hidden
    name and is named; an empty file, and content that was never complete, are removed.

    Args:
        target: Path of the output of a run that starts.
    """
    target = target.resolve()
    lines = []
    for path in _candidates(target):
        with _abandoned(path) as is_abandoned:
            line = _recover(path, target) if is_abandoned else None
        lines += [line] if line is not None else []
    return lines


def _candidates(target: Path) -> list[Path]:
    """Return what has the name of a temporary file or folder of a target."""
    ending = rf"{re.escape(target.suffix)}(?:{re.escape(NEW)})?"
    pattern = re.compile(rf"\.{re.escape(target.stem)}\.{_RANDOM}{ending}")
    folder_pattern = re.compile(rf"\.{re.escape(target.name)}\.{_RANDOM}")
    try:
        entries = sorted(target.parent.iterdir())
    except OSError:
        return []
    return [
        entry for entry in entries if pattern.fullmatch(entry.name) or folder_pattern.fullmatch(entry.name)
    ]


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Yield whether no process has locked an output; this one holds the lock until the block ends."""
    handle = None
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_abandoned = handle is not None and _is_named(handle, path)
    except OSError:
        is_abandoned = False
    try:
        yield is_abandoned
    finally:
        if handle is not None:
            os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    """Return whether an open file or folder is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def _recover(path: Path, target: Path) -> str | None:
    is_folder = path.is_dir()
    content = _describe_content(path)
    if content is None:
        return f"a killed run left {printable(str(path))}, which cannot be played: remove it"
    try:
        if not content or path.name.endswith(NEW):
            path.rmdir() if is_folder else path.unlink()
            return None
        recovered = next(name for name in _free_names(target) if not name.exists())
        path.chmod((0o777 if is_folder else 0o666) & ~current_umask())
        path.rename(recovered)
    except OSError as error:
        return f"a killed run left {printable(str(path))}, which cannot be renamed ({error.strerror})"
    return f"recovered {printable(str(recovered))} of a killed run: {content}"


def _describe_content(path: Path) -> str | None:
    """Return what a leftover holds; empty text for nothing, None for a recording that cannot be played."""
    if path.is_dir():
        count = sum(1 for _ in path.iterdir())
        return f"{count} files" if count else ""
    size = path.stat().st_size
    if not size:
        return ""
    if path.suffix.lower() == ".mcap" and not _has_whole_chunk(path):
        return None
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return f"{size} bytes"
    # Only one frame is read: an hour of video would delay the start.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    is_playable = capture.isOpened() and capture.grab()
    capture.release()
    return f"{size / 1e6:.1f} MB of video" if is_playable else None


def _has_whole_chunk(path: Path) -> bool:
    """Return whether an MCAP file holds a chunk of messages that is not cut off (https://mcap.dev/spec)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(_MCAP_MAGIC_BYTES)
        while len(start := file.read(_MCAP_START_BYTES)) == _MCAP_START_BYTES:
            end = file.tell() + int.from_bytes(start[1:], "little")
            if start[0] == _MCAP_CHUNK or end > size:
                return end <= size
            file.seek(end)
    return False


def _free_names(target: Path) -> Iterator[Path]:
    number = 0
    while True:
        number += 1
        yield target.with_name(f"{target.stem}.recovered-{number}{target.suffix}")
