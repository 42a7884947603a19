"""Set of wheels that makes up a board's runtime: collected once at the desk, cached, identified by a hash."""

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
from jetson.wheels.resolve import CONSTRAINTS_FILE, Wheel, download_wheels, lock_file, read_wheel
from jetson.wheels.self_wheel import build_own_wheel
from jetson.wheels.target_platform import TargetPlatform

Log = Callable[[str], None]
REQUIREMENTS = "requirements.txt"
INSTALLER = Path(__file__).with_name("install_runtime.py")
"""Script that the board's own Python runs."""


@dataclass(frozen=True)
class WheelSet:
    """Wheels of aerogaze and its dependencies.

    Attributes:
        platform: The platform that they are for.
        wheels: The wheels.
        requirements: Text of requirements.txt: versions and hashes for pip's --require-hashes.
    """

    platform: TargetPlatform
    wheels: tuple[Wheel, ...]
    requirements: str

    @property
    def id(self) -> str:
        """Id of the runtime: equal ids mean the same wheels, byte for byte."""
        return hashlib.sha256(self.requirements.encode()).hexdigest()[:16]

    @property
    def size_bytes(self) -> int:
        """Size of all wheels."""
        return sum(wheel.path.stat().st_size for wheel in self.wheels)

    def __str__(self) -> str:
        """Return the number and size of the wheels, and their platform."""
        return f"{len(self.wheels)} wheels, {self.size_bytes / 1e6:.0f} MB, for {self.platform}"


def collect_wheels(platform: TargetPlatform, log: Log) -> WheelSet:
    """Return the wheels for a platform: from the cache, else downloaded with pip.

    The cache is valid as long as aerogaze has the same requirements; the hash of each file is checked.

    Raises:
        InputError: The wheels are not in the cache and cannot be downloaded.
    """
    cache = cache_folder() / "wheels"
    own_wheel = write_own_wheel(cache)
    folder = cache / f"{platform}-{_requirements_key(own_wheel, platform)}"
    if not _is_complete(folder):
        log(f"downloading wheels for {platform}")
        with atomic_folder(folder, is_ours=lambda path: path.suffix in (".whl", ".txt")) as pending:
            download_wheels(own_wheel, platform, pending)
            (pending / REQUIREMENTS).write_text(requirement_lines(pending.glob("*.whl")))
    wheels = (own_wheel, *map(read_wheel, sorted(folder.glob("*.whl"))))
    unpacked_bytes = sum(wheel.unpacked_bytes for wheel in wheels)
    header = f"# machine {platform}\n# unpacked {unpacked_bytes} bytes\n"
    return WheelSet(platform, wheels, header + requirement_lines(wheel.path for wheel in wheels))


def write_wheel_folder(wheel_set: WheelSet, out: Path) -> None:
    """Write a folder to copy to a board: the wheels, their requirements.txt, and the installer.

    Raises:
        InputError: The folder holds other files, or cannot be written.
    """
    names = {REQUIREMENTS, INSTALLER.name}
    with atomic_folder(out, is_ours=lambda path: path.suffix == ".whl" or path.name in names) as pending:
        for wheel in wheel_set.wheels:
            shutil.copyfile(wheel.path, pending / wheel.path.name)
        shutil.copyfile(INSTALLER, pending / INSTALLER.name)
        (pending / REQUIREMENTS).write_text(wheel_set.requirements)


@contextmanager
def temporary_requirements(wheel_set: WheelSet) -> Iterator[Path]:
    """Write the requirements.txt of a set as a temporary file, which is removed after the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / REQUIREMENTS
        path.write_text(wheel_set.requirements)
        yield path


def write_own_wheel(cache: Path) -> Wheel:
    """Write the wheel of this aerogaze into a cache, if it is not there yet."""
    name, data = build_own_wheel()
    path = cache / "own" / hashlib.sha256(data).hexdigest()[:16] / name
    if not path.exists() or path.read_bytes() != data:
        with atomic_file(path) as pending:
            pending.write_bytes(data)
    return read_wheel(path)


def _requirements_key(own_wheel: Wheel, platform: TargetPlatform) -> str:
    """Return a hash of everything that decides which wheels are downloaded."""
    requirements = sorted(map(str, own_wheel.requirements_on(platform, platform.extras)))
    lock = lock_file(platform)
    versions = (lock if lock.is_file() else CONSTRAINTS_FILE).read_text()
    return hashlib.sha256("\n".join([*requirements, versions]).encode()).hexdigest()[:16]


def _is_complete(folder: Path) -> bool:
    try:
        return (folder / REQUIREMENTS).read_text() == requirement_lines(folder.glob("*.whl"))
    except OSError:
        return False


def requirement_lines(wheels: Iterable[Path]) -> str:
    """Return a line with version and hash for each wheel, as pip's --require-hashes reads them."""
    rows = sorted((*parse_wheel_filename(path.name)[:2], sha256(path)) for path in wheels)
    return "".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, version, digest in rows)
