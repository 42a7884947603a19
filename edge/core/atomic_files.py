"""Atomic output files and folders: written next to the target, then renamed over it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from edge.core.errors import InputError


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class PendingFile:
    """A temporary file in the folder of its target, ended by `commit()` or `discard()`.

    If the target is a symbolic link, the file that the link points to is written.

    Attributes:
        path: The temporary file to write to.
        target: The final path, with links resolved.

    Raises:
        InputError: The folder cannot be created or written, or the target is a folder or device.
    """

    def __init__(self, target: Path) -> None:
        self.target = target = _resolve(target)
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {target}: it is a folder or device; expected the name of a file")
        with translate_write_errors(target):
            self._created_folders = _create_folders(target.parent)
            # The suffix must stay last: encoders choose their format by it.
            handle, name = tempfile.mkstemp(
                prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
            )
            os.close(handle)
        self.path = Path(name)

    def commit(self) -> None:
        """Move the file to its target and replace an older file there."""
        with translate_write_errors(self.target):
            # Not earlier: some writers delete the file and create it again with other permissions.
            self.path.chmod(0o666 & ~current_umask())
            self.path.replace(self.target)

    def discard(self) -> None:
        """Remove the file and the folders created for it; an older file at the target stays."""
        self.path.unlink(missing_ok=True)
        _remove_empty(self._created_folders)


class PendingFolder:
    """A temporary folder next to its target, ended by `commit()` or `discard()`.

    An older folder is replaced only if aerogaze wrote everything in it, so that a mistyped name never deletes
    the user's files. Symbolic links are followed.

    Args:
        target: The final path.
        is_ours: Tells whether aerogaze wrote an entry of an older folder.

    Attributes:
        path: The temporary folder to fill.
        target: The final path, with links resolved.

    Raises:
        InputError: The target is a file or a mount point, contains files of the user, or cannot be written.
    """

    def __init__(self, target: Path, is_ours: Callable[[Path], bool]) -> None:
        self.target = target = _resolve(target)
        self._is_ours = is_ours
        if target.exists() and not target.is_dir():
            raise InputError(f"cannot write the folder {target}: it is a file; choose another path")
        if target.is_mount():
            raise InputError(f"cannot replace {target}: it is a mount point; choose a folder inside it")
        self._check_older_folder()
        with translate_write_errors(target):
            self._created_folders = _create_folders(target.parent)
            self.path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            self.path.chmod(0o777 & ~current_umask())

    def commit(self) -> None:
        """Move the folder to its target, then delete the older folder.

        Raises:
            InputError: A file of the user appeared in the target meanwhile, or the move failed.
        """
        self._check_older_folder()
        with translate_write_errors(self.target):
            if not self.target.exists():
                self.path.replace(self.target)
                return
            older = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.", dir=self.target.parent))
            self.target.replace(older)
            try:
                self.path.replace(self.target)
            except OSError:
                older.replace(self.target)
                raise
            shutil.rmtree(older)

    def discard(self) -> None:
        """Remove the folder and the parents created for it; an older folder at the target stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty(self._created_folders)

    def _check_older_folder(self) -> None:
        entries = self.target.iterdir() if self.target.is_dir() else ()
        foreign = next((entry for entry in entries if not self._is_ours(entry)), None)
        if foreign is not None:
            raise InputError(
                f"{self.target} holds {foreign.name}, which was not written by aerogaze; "
                "expected a new or empty folder: choose another path"
            )


def _create_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that did not exist, deepest first."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # another process may have put files there
        for folder in folders:
            folder.rmdir()


def atomic_file(target: Path) -> AbstractContextManager[Path]:
    """Yield a temporary path that becomes `target` if the block succeeds and is removed if it fails."""
    return _commit_on_success(PendingFile(target))


def atomic_folder(target: Path, is_ours: Callable[[Path], bool]) -> AbstractContextManager[Path]:
    """Yield a temporary folder that becomes `target` if the block succeeds and is removed if it fails."""
    return _commit_on_success(PendingFolder(target, is_ours))


@contextmanager
def _commit_on_success(pending: PendingFile | PendingFolder) -> Iterator[Path]:
    try:
        yield pending.path
        pending.commit()
    except BaseException:
        pending.discard()
        raise


@contextmanager
def translate_write_errors(target: Path) -> Iterator[None]:
    """Raise errors of the file system as `InputError` with a remedy.

    Raises:
        InputError: Instead of OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENXIO):
            raise InputError(f"cannot write {target}: nobody reads it; start its reader first") from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or choose another path" if full else "choose a path that can be written"
        raise InputError(f"cannot write {target}: {error.strerror}; {remedy}") from error


def check_file_name(name: str) -> str:
    """Return a file name that other libraries can open.

    Raises:
        InputError: The name is not UTF-8, on which OpenCV would crash, or has a zero byte.
    """
    if "\0" in name:
        raise InputError(f"the name {name!r} has a zero byte: correct the name")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {name!r} is not UTF-8: rename the file") from None
    return name


def _resolve(target: Path) -> Path:
    check_file_name(str(target))
    with translate_write_errors(target):
        return target.resolve()


def current_umask() -> int:
    """Return the permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Return the cache folder: $AEROGAZE_CACHE, or `aerogaze` in the XDG cache folder.

    Raises:
        InputError: Neither is set, and the user has no home folder, as in a container with a foreign user.
    """
    if configured := os.environ.get("AEROGAZE_CACHE"):
        return Path(configured)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "aerogaze"
    try:
        return Path.home() / ".cache" / "aerogaze"
    except RuntimeError:
        raise InputError("this user has no home folder to cache in: export AEROGAZE_CACHE=DIR") from None
