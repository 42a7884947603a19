"""Disks that fail: cut off at a step, full, or losing what was not yet on the disk. And quick engines."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge.release.manifest import Release
from jetson.device.durable_disk import DurableDisk
from jetson.device.engine_trial import LogLine
from jetson.device.precision_policy import PrecisionMeasurement


class Cut(BaseException):
    """The power went."""


class CutDisk(DurableDisk):
    """Stops before step `at` (counted from 1) and does nothing ever after; 0 never stops."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.steps = at, 0

    def step(self, what: str, path: Path) -> None:
        self.steps += 1
        if self.at and self.steps >= self.at:
            raise Cut(f"{self.steps}: {what} {path}")


class KilledDisk(CutDisk):
    """Kills this very process before a step."""

    def step(self, what: str, path: Path) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class FailingDisk(CutDisk):
    """Fails with an error of the system at a step, and from then on if `forever`."""

    def __init__(self, at: int, number: int, forever: bool) -> None:
        super().__init__(at)
        self.number, self.forever = number, forever

    def step(self, what: str, path: Path) -> None:
        self.steps += 1
        makes = what in ("open", "write", "mkdir", "rename")
        if self.steps == self.at or (self.forever and self.steps > self.at and makes):
            raise OSError(self.number, os.strerror(self.number), str(path))


class LossyDisk(CutDisk):
    """Remembers what is not on the disk yet: data not fsynced, and names whose folder was not.

    `lose` takes it away, as a power cut may: "all" of it, only the "data", or, of the names, those of "some"
    folders (by chance).
    """

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self._names: list[tuple[Path, Callable[[], object]]] = []
        self._data: set[Path] = set()

    def step(self, what: str, path: Path) -> None:
        super().step(what, path)
        if what == "sync":
            self._names = [row for row in self._names if row[0] != path]
        elif what == "fsync":
            self._data.discard(path)
        elif what == "open":
            self._data.add(path)
            self._names.append((path.parent, path.unlink))
        elif what == "mkdir":
            self._names.append((path.parent, lambda: shutil.rmtree(path)))
        elif what == "rmdir":
            self._names.append((path.parent, path.mkdir))
        elif what == "unlink":
            data = path.read_bytes()
            self._names.append((path.parent, lambda: path.write_bytes(data)))
        elif what == "rename":
            self._names.append((path.parent, _undone(path)))

    def lose(self, what: str, chance: random.Random) -> None:
        folders = {folder for folder, _ in self._names}
        chosen = {"all": folders, "data": set()}.get(
            what, {f for f in sorted(folders) if chance.random() < 0.5}
        )
        for folder, undo in reversed(self._names):
            if folder in chosen:
                with suppress(FileNotFoundError):
                    undo()
        for path in self._data:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)


def _undone(path: Path) -> Callable[[], object]:
    before = path.read_bytes() if path.exists() else None

    def undo() -> None:
        path.rename(path.with_name(path.name + ".new"))
        if before is not None:
            path.write_bytes(before)

    return undo


class FakeBackend:
    """Engines that were measured before: for tests of everything else."""

    name = "quick"

    def __init__(self, *found: PrecisionMeasurement) -> None:
        self.found = list(found) or [PrecisionMeasurement("int8", 0.999, 1.0, 2.0)]

    def build(self, release: Release, folder: Path, say: LogLine) -> None:
        (folder / "stream.engine").write_bytes(b"compiled")

    def measure(self, release: Release, folder: Path, say: LogLine) -> list[PrecisionMeasurement]:
        assert (folder / "stream.engine").exists()
        return self.found
