"""Which wheels a machine needs that is not this one: pip finds and downloads them, and nothing is compiled.

pip asks this machine's Python, not that one's, where a requirement has a marker (pypa/pip#11010). So what
it brought is gone through with that machine's markers: what is missing is asked for by name, what is not
needed there is left out.
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

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
ROUNDS = 8


@dataclass(frozen=True)
class Wheel:
    """A wheel on the disk, and what its metadata says."""

    path: Path
    name: NormalizedName
    version: Version
    requires: tuple[Requirement, ...]
    python: SpecifierSet
    unpacked_bytes: int

    def needs(self, machine: TargetPlatform, extras: Iterable[str]) -> Iterator[Requirement]:
        """Give what it requires there."""
        environments = [{**machine.marker_environment(), "extra": extra} for extra in ("", *sorted(extras))]
        for one in self.requires:
            if one.marker is None or any(one.marker.evaluate(each) for each in environments):
                yield one


def read_wheel(path: Path) -> Wheel:
    """Read a wheel's name and metadata."""
    name, version, _, _ = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive:
        inside = next(
            n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1
        )
        metadata = BytesParser().parsebytes(archive.read(inside), headersonly=True)
        size = sum(entry.file_size for entry in archive.infolist())
    requires = tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", ()))
    return Wheel(path, name, version, requires, SpecifierSet(metadata.get("Requires-Python", "")), size)


def find_dependencies(
    root: Wheel, machine: TargetPlatform, there: dict[NormalizedName, Wheel]
) -> tuple[set[NormalizedName], set[str]]:
    """Go through all that `root` needs on a machine; return the names found, and what is missing."""
    found: set[NormalizedName] = set()
    missing: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo: list[tuple[Wheel, frozenset[str]]] = [(root, machine.extras)]
    while todo:
        wheel, extras = todo.pop()
        if (wheel.name, extras) in seen:
            continue
        seen.add((wheel.name, extras))
        for one in wheel.needs(machine, extras):
            name = canonicalize_name(one.name)
            other = root if name == root.name else there.get(name)
            if other is None or not one.specifier.contains(other.version, prereleases=True):
                missing.add(str(one).partition(";")[0].strip())
            else:
                found.add(name)
                todo.append((other, frozenset(one.extras)))
    return found - {root.name}, missing


def download_wheels(root: Wheel, machine: TargetPlatform, folder: Path) -> None:
    """Put into an empty folder the wheels that `root` needs on a machine, and pip's own.

    Raises:
        InputError: its Python is too old or too new, or some have no wheel for it or cannot be reached.
    """
    if not root.python.contains(f"{machine.python}.0"):
        raise InputError(
            f"the board has Python {machine.python}, aerogaze needs {root.python}: JetPack 6 and 7 have such"
        )
    asked = {"pip", *find_dependencies(root, machine, {})[1]}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _pip(asked, machine, Path(scratch))
            wheels = {one.name: one for one in map(read_wheel, Path(scratch).glob("*.whl"))}
            found, missing = find_dependencies(root, machine, wheels)
            if not missing:
                for name in {canonicalize_name("pip"), *found}:
                    path = wheels[name].path
                    path.rename(folder / path.name)
                return
            asked |= missing
    raise InputError(f"the wheels for {machine} cannot be chosen: {', '.join(sorted(missing))} stay missing")


def read_constraints(machine: TargetPlatform) -> list[str]:
    """Return the versions that were tested together, for a machine's Python."""
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    chosen = (Requirement(line) for line in lines if line)
    return [
        f"{r.name}{r.specifier}"
        for r in chosen
        if not r.marker or r.marker.evaluate(machine.marker_environment())
    ]


def _pip(asked: Iterable[str], machine: TargetPlatform, folder: Path) -> None:
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(read_constraints(machine)))
    words = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1",
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", machine.python,
        *(word for platform in machine.platform_tags() for word in ("--platform", platform)),
        "--constraint", str(pins), "--dest", str(folder), *sorted(asked),
    ]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL)
    pins.unlink(missing_ok=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        why = (errors or done.stderr.splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise InputError(
            f"the wheels for {machine} cannot be gathered (pip: {why}): reach a package index once, with "
            "aerogaze wheels; the set is kept for desks without one"
        )
