"""The set of wheels that is a board's runtime: gathered once at the desk, kept, and known by its hash."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from edge.core.atomic_files import atomic_file, atomic_folder, cache_folder, sha256
from jetson.wheels.resolve import CONSTRAINTS, Wheel, download_wheels, read_wheel
from jetson.wheels.self_wheel import build_own_wheel
from jetson.wheels.target_platform import TargetPlatform

Log = Callable[[str], None]
REQUIREMENTS = "requirements.txt"
INSTALLER = Path(__file__).with_name("install_runtime.py")
"""Runs on the board, by its own Python."""


@dataclass(frozen=True)
class WheelSet:
    """Wheels with their versions and hashes as pip's --require-hashes takes them, ours among them."""

    machine: TargetPlatform
    wheels: tuple[Wheel, ...]
    requirements: str

    @property
    def id(self) -> str:
        """What tells this runtime from others: the same id is the same wheels, byte by byte."""
        return hashlib.sha256(self.requirements.encode()).hexdigest()[:16]

    @property
    def size_bytes(self) -> int:
        """Size of the wheels together."""
        return sum(wheel.path.stat().st_size for wheel in self.wheels)

    def __str__(self) -> str:
        """Tell how many, how large, and for whom."""
        return f"{len(self.wheels)} wheels, {self.size_bytes / 1e6:.0f} MB, for {self.machine}"


def collect_wheels(machine: TargetPlatform, log: Log) -> WheelSet:
    """Return a machine's set: from the cache, else with pip from the package index.

    The cache counts while this aerogaze needs what it needed then; each file is held to its hash.

    Raises:
        InputError: it is not in the cache, and cannot be had.
    """
    store = cache_folder() / "wheels"
    own = _own(store)
    folder = store / f"{machine}-{_key(own, machine)}"
    if not _whole(folder):
        log(f"gathering wheels for {machine}")
        with atomic_folder(folder, is_ours=lambda path: path.suffix in (".whl", ".txt")) as made:
            download_wheels(own, machine, made)
            (made / REQUIREMENTS).write_text(_lines(made.glob("*.whl")))
    wheels = (own, *map(read_wheel, sorted(folder.glob("*.whl"))))
    needs = sum(wheel.unpacked_bytes for wheel in wheels)
    head = f"# machine {machine}\n# unpacked {needs} bytes\n"
    return WheelSet(machine, wheels, head + _lines(wheel.path for wheel in wheels))


def write_wheel_folder(found: WheelSet, out: Path) -> None:
    """Write a set as a folder for a board, carried by any means: wheels, their list, what installs them.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    names = {REQUIREMENTS, INSTALLER.name}
    with atomic_folder(out, is_ours=lambda path: path.suffix == ".whl" or path.name in names) as made:
        for wheel in found.wheels:
            shutil.copyfile(wheel.path, made / wheel.path.name)
        shutil.copyfile(INSTALLER, made / INSTALLER.name)
        (made / REQUIREMENTS).write_text(found.requirements)


@contextmanager
def temporary_requirements(found: WheelSet) -> Iterator[Path]:
    """Give the list of a set as a file, while the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / REQUIREMENTS
        place.write_text(found.requirements)
        yield place


def _own(store: Path) -> Wheel:
    name, data = build_own_wheel()
    place = store / "own" / hashlib.sha256(data).hexdigest()[:16] / name
    if not place.exists() or place.read_bytes() != data:
        with atomic_file(place) as path:
            path.write_bytes(data)
    return read_wheel(place)


def _key(own: Wheel, machine: TargetPlatform) -> str:
    asked = [*sorted(map(str, own.needs(machine, machine.extras))), CONSTRAINTS.read_text()]
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]


def _whole(folder: Path) -> bool:
    try:
        return (folder / REQUIREMENTS).read_text() == _lines(folder.glob("*.whl"))
    except OSError:
        return False


def _lines(wheels: Iterable[Path]) -> str:
    rows = sorted((*parse_wheel_filename(path.name)[:2], sha256(path)) for path in wheels)
    return "".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in rows)
