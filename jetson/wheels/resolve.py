"""Resolution of the wheels for another platform: pip finds and downloads them; nothing is compiled.

pip evaluates the markers of requirements for this machine's Python, not for the target's (pypa/pip#11010).
So its result is checked with the target's markers: missing packages are requested by name in another
round, and packages that are not needed there are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edge.core.errors import InputError
from jetson.wheels.target_platform import TargetPlatform

CONSTRAINTS_FILE = Path(__file__).parents[1] / "constraints.txt"
LOCK_FOLDER = Path(__file__).with_name("locked")
"""Lists of wheels with their hashes, one for each JetPack. `python -m jetson.wheels.lock` writes them."""
MAX_ROUNDS = 8


@dataclass(frozen=True)
class Wheel:
    """A wheel file with its metadata.

    Attributes:
        path: The file.
        name: Name of the package.
        version: Version of the package.
        requires: Its requirements, with their markers.
        python: Versions of Python that it supports.
        unpacked_bytes: Size of its files when unpacked.
    """

    path: Path
    name: NormalizedName
    version: Version
    requires: tuple[Requirement, ...]
    python: SpecifierSet
    unpacked_bytes: int

    def requirements_on(self, platform: TargetPlatform, extras: Iterable[str]) -> Iterator[Requirement]:
        """Yield its requirements on a platform, with extras of its own."""
        environments = [{**platform.marker_environment(), "extra": extra} for extra in ("", *sorted(extras))]
        for requirement in self.requires:
            marker = requirement.marker
            if marker is None or any(marker.evaluate(environment) for environment in environments):
                yield requirement


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's name and metadata."""
    name, version, _, _ = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive:
        metadata_name = next(
            entry
            for entry in archive.namelist()
            if entry.endswith(".dist-info/METADATA") and entry.count("/") == 1
        )
        metadata = BytesParser().parsebytes(archive.read(metadata_name), headersonly=True)
        size = sum(entry.file_size for entry in archive.infolist())
    requires = tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", ()))
    return Wheel(path, name, version, requires, SpecifierSet(metadata.get("Requires-Python", "")), size)


def find_dependencies(
    root: Wheel, platform: TargetPlatform, available: dict[NormalizedName, Wheel]
) -> tuple[set[NormalizedName], set[str]]:
    """Follow the requirements of a wheel on a platform.

    Args:
        root: The wheel to start from.
        platform: The target platform.
        available: Wheels that can satisfy a requirement.

    Returns:
        Names of the available wheels that are needed, and requirements that no available wheel satisfies.
    """
    needed: set[NormalizedName] = set()
    missing: set[str] = set()
    visited: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[Wheel, frozenset[str]]] = [(root, platform.extras)]
    while todo:
        wheel, extras = todo.pop()
        if (wheel.name, extras) in visited:
            continue
        visited.add((wheel.name, extras))
        for requirement in wheel.requirements_on(platform, extras):
            name = canonicalize_name(requirement.name)
            dependency = root if name == root.name else available.get(name)
            if dependency is None or not requirement.specifier.contains(dependency.version, prereleases=True):
                missing.add(str(requirement).partition(";")[0].strip())
            else:
                needed.add(name)
                todo.append((dependency, frozenset(requirement.extras)))
    return needed - {root.name}, missing


def download_wheels(root: Wheel, platform: TargetPlatform, folder: Path) -> None:
    """Download the wheels that a wheel needs on a platform, and the wheel of pip itself.

    A JetPack gets the wheels of its list, byte for byte. Other platforms get what pip finds today.

    Args:
        root: The wheel to start from.
        platform: The target platform.
        folder: An empty folder for the wheels.

    Raises:
        InputError: The platform's Python is not supported, wheels do not exist or cannot be reached, or one
            has another hash than in the list.
    """
    _check_python(root, platform)
    lock = lock_file(platform)
    if not lock.is_file():
        resolve_wheels(root, platform, folder)
        return
    _run_pip_download(["--no-deps", "--require-hashes", "--requirement", str(lock)], platform, folder)
    wheels = {wheel.name: wheel for wheel in map(read_wheel, folder.glob("*.whl"))}
    if missing := find_dependencies(root, platform, wheels)[1]:
        raise InputError(
            f"{lock} lacks {', '.join(sorted(missing))}: write it again with python -m jetson.wheels.lock"
        )


def lock_file(platform: TargetPlatform) -> Path:
    """Return the list of a platform's wheels; it exists for each JetPack."""
    return LOCK_FOLDER / f"{platform}.txt"


def resolve_wheels(root: Wheel, platform: TargetPlatform, folder: Path) -> None:
    """Find and download wheels as `download_wheels` does, but never by a list.

    Raises:
        InputError: As `download_wheels`.
    """
    requested = {"pip", *find_dependencies(root, platform, {})[1]}
    for _ in range(MAX_ROUNDS):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            constraints = Path(scratch) / "constraints.txt"
            constraints.write_text("\n".join(read_constraints(platform)))
            _run_pip_download(["--constraint", str(constraints), *sorted(requested)], platform, Path(scratch))
            wheels = {wheel.name: wheel for wheel in map(read_wheel, Path(scratch).glob("*.whl"))}
            needed, missing = find_dependencies(root, platform, wheels)
            if not missing:
                for name in {canonicalize_name("pip"), *needed}:
                    path = wheels[name].path
                    path.rename(folder / path.name)
                return
            requested |= missing
    raise InputError(
        f"the wheels for {platform} cannot be resolved: {', '.join(sorted(missing))} are still missing after "
        f"{MAX_ROUNDS} rounds; check {CONSTRAINTS_FILE}"
    )


def _check_python(root: Wheel, platform: TargetPlatform) -> None:
    if not root.python.contains(f"{platform.python}.0"):
        raise InputError(
            f"the board has Python {platform.python}, but aerogaze needs {root.python}: "
            "install JetPack 6 or 7"
        )


def read_constraints(platform: TargetPlatform) -> list[str]:
    """Return the versions that were tested together, for a platform's Python."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS_FILE.read_text().splitlines())
    environment = platform.marker_environment()
    requirements = (Requirement(line) for line in lines if line)
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate(environment)
    ]


def _run_pip_download(requirements: Iterable[str], platform: TargetPlatform, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1",
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", platform.python,
        *(word for tag in platform.platform_tags() for word in ("--platform", tag)),
        "--dest", str(folder), *requirements,
    ]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise InputError(
            f"a wheel for {platform} is not the one that was tested: its hash is not that in "
            f"{lock_file(platform)}; use another package index"
        )
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (errors or result.stderr.splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise InputError(
            f"the wheels for {platform} cannot be downloaded (pip: {reason}): run aerogaze wheels once with "
            "access to a package index; the cache then serves this desk without one"
        )
