"""Disks that are interrupted, full, or lose unsynchronized changes; and a fake backend for engines."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from edge.release.release import Release
from jetson.device.durable_disk import DurableDisk
from jetson.device.engine_trial import LogLine
from jetson.device.precision_policy import PrecisionMeasurement


class PowerCut(BaseException):
    """The power went off."""


class InterruptedDisk(DurableDisk):
    """Raises `PowerCut` at a step (counted from 1) and at each later one; 0 never does."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.steps = at, 0

    def step(self, operation: str, path: Path) -> None:
        self.steps += 1
        if self.at and self.steps >= self.at:
            raise PowerCut(f"{self.steps}: {operation} {path}")


class KilledDisk(InterruptedDisk):
    """Kills its own process before a step."""

    def step(self, operation: str, path: Path) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class FailingDisk(InterruptedDisk):
    """Raises an error of the system at a step and, if `forever`, at each later one that needs space."""

    def __init__(self, at: int, number: int, forever: bool) -> None:
        super().__init__(at)
        self.number, self.forever = number, forever

    def step(self, operation: str, path: Path) -> None:
        self.steps += 1
        needs_space = operation in ("open", "write", "mkdir", "rename")
        if self.steps == self.at or (self.forever and self.steps > self.at and needs_space):
            raise OSError(self.number, os.strerror(self.number), str(path))


class LossyDisk(InterruptedDisk):
    """Records unsynchronized changes: data without fsync, and names whose folder was not synchronized.

    `lose` undoes them, as a power cut may: "all" of them, only the "data", or the data and the names of
    "some" randomly chosen folders.
    """

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self._names: list[tuple[Path, Callable[[], object]]] = []
        self._data: set[Path] = set()

    def step(self, operation: str, path: Path) -> None:
        super().step(operation, path)
        if operation == "sync":
            self._names = [row for row in self._names if row[0] != path]
        elif operation == "fsync":
            self._data.discard(path)
        elif operation == "open":
            self._data.add(path)
            self._names.append((path.parent, path.unlink))
        elif operation == "mkdir":
            self._names.append((path.parent, lambda: shutil.rmtree(path)))
        elif operation == "rmdir":
            self._names.append((path.parent, path.mkdir))
        elif operation == "unlink":
            data = path.read_bytes()
            self._names.append((path.parent, lambda: path.write_bytes(data)))
        elif operation == "rename":
            self._names.append((path.parent, _undo_rename(path)))

    def lose(self, extent: str, generator: random.Random) -> None:
        folders = {folder for folder, _ in self._names}
        chosen = {"all": folders, "data": set()}.get(
            extent, {folder for folder in sorted(folders) if generator.random() < 0.5}
        )
        for folder, undo in reversed(self._names):
            if folder in chosen:
                with suppress(FileNotFoundError):
                    undo()
        for path in self._data:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)


def _undo_rename(path: Path) -> Callable[[], object]:
    before = path.read_bytes() if path.exists() else None

    def undo() -> None:
        path.rename(path.with_name(path.name + ".new"))
        if before is not None:
            path.write_bytes(before)

    return undo


class FakeBackend:
    """Backend with fixed measurements, for tests of everything else."""

    name, fallback_reason = "quick", ""

    def __init__(self, *measurements: PrecisionMeasurement) -> None:
        self.measurements = list(measurements) or [PrecisionMeasurement("int8", 0.999, 1.0, 2.0)]

    def build(self, release: Release, folder: Path, log: LogLine) -> Mapping[str, str]:
        (folder / "stream.engine").write_bytes(b"compiled")
        return {}

    def measure(
        self, release: Release, folder: Path, log: LogLine, refused: Mapping[str, str]
    ) -> list[PrecisionMeasurement]:
        assert (folder / "stream.engine").exists()
        return self.measurements
