"""Writing so that nothing is lost or half-written: beside the target first, then one rename."""

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
    """Return the file's SHA-256 as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class PendingFile:
    """A file written beside its place: `path` to write to, then `commit` or `discard`.

    A link is followed: what it names is written.

    Raises:
        InputError: the folder cannot be made or written, or the place is a folder or device.
    """

    def __init__(self, target: Path) -> None:
        self.target = target = _resolved(target)
        if target.exists() and not target.is_file():
            raise InputError(f"cannot write {target}: it is a folder or device; expected the name of a file")
        with writing(target):
            self._parents = _made(target.parent)
            # The suffix stays last: encoders choose their format by it.
            handle, name = tempfile.mkstemp(
                prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
            )
            os.close(handle)
        self.path = Path(name)

    def commit(self) -> None:
        """Put the file in its place, over an older one."""
        with writing(self.target):
            self.path.chmod(0o666 & ~_umask())  # here, for some writers make the file anew
            self.path.replace(self.target)

    def discard(self) -> None:
        """Remove what was written and the folders made for it; an older file in the place stays."""
        self.path.unlink(missing_ok=True)
        _remove_empty(self._parents)


class PendingFolder:
    """A folder written beside its place: `path` to fill, then `commit` or `discard`.

    An older folder is replaced only if `ours` says of each of its entries that we made it: a wrong
    name costs nobody their files. A link is followed.

    Raises:
        InputError: the place is a file or a mount point, holds somebody else's files, or cannot be
            written.
    """

    def __init__(self, target: Path, ours: Callable[[Path], bool]) -> None:
        self.target = target = _resolved(target)
        self._ours = ours
        if target.exists() and not target.is_dir():
            raise InputError(f"cannot write the folder {target}: it is a file; name another place")
        if target.is_mount():
            raise InputError(f"cannot replace {target}: it is a mount point; name a folder inside it")
        self._check()
        with writing(target):
            self._parents = _made(target.parent)
            self.path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            self.path.chmod(0o777 & ~_umask())

    def commit(self) -> None:
        """Put the folder in its place; the older one goes only after the new one stands.

        Raises:
            InputError: somebody else's file came meanwhile, or the folder cannot be put there.
        """
        self._check()
        with writing(self.target):
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
        """Remove what was written and the folders made for it; an older folder in the place stays."""
        shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty(self._parents)

    def _check(self) -> None:
        entries = self.target.iterdir() if self.target.is_dir() else ()
        strange = next((entry for entry in entries if not self._ours(entry)), None)
        if strange is not None:
            raise InputError(
                f"{self.target} holds {strange.name}, which was not written by aerogaze; "
                "expected a new or empty folder: name another one"
            )


def _made(folder: Path) -> list[Path]:
    """Make a folder with its parents; return those that were not there, deepest first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # somebody put something there meanwhile
        for folder in folders:
            folder.rmdir()


def written_file(target: Path) -> AbstractContextManager[Path]:
    """Give a path to write to; it becomes `target` if the block ends well, else it is removed."""
    return _committed(PendingFile(target))


def written_folder(target: Path, ours: Callable[[Path], bool]) -> AbstractContextManager[Path]:
    """Give a folder to fill; it becomes `target` if the block ends well, else it is removed."""
    return _committed(PendingFolder(target, ours))


@contextmanager
def _committed(pending: PendingFile | PendingFolder) -> Iterator[Path]:
    try:
        yield pending.path
        pending.commit()
    except BaseException:
        pending.discard()
        raise


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the system says against writing into one line.

    Raises:
        InputError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or name another place" if full else "name a place that can be written"
        raise InputError(f"cannot write {target}: {error.strerror}; {remedy}") from error


def checked_name(name: str) -> str:
    """Return a file's name if libraries can be given it.

    Raises:
        InputError: its bytes are not UTF-8; OpenCV would crash on it.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {name!r} is not UTF-8: rename the file") from None
    return name


def _resolved(target: Path) -> Path:
    checked_name(str(target))
    with writing(target):
        return target.resolve()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_folder() -> Path:
    """Return where what can be made again is kept: $AEROGAZE_CACHE, else aerogaze in XDG's cache folder."""
    named = os.environ.get("AEROGAZE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "aerogaze"
