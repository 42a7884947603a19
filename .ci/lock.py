"""Writer of locked.txt: versions and hashes of all that `make` installs at the desk, torch excepted.

Run `.venv/bin/python .ci/lock.py` after `make env`, with access to a package index. It takes the versions
that are installed, which are those that were tested. `make env-locked` installs the list.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge.core.toml_reader import read_toml

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "locked.txt"
BY_INDEX = "torch"
"""Its builds differ by package index: it is for the CPU or for one version of CUDA, and needs its libraries.
Their hashes would be those of one index."""
HEADER = """\
# What `make` installs at the desk, with hashes: written by .ci/lock.py, installed by `make env-locked`.
# Linux on x86_64, Python {python}. torch and what it requires of CUDA are left out: their builds differ by
# package index. constraints.txt has torch's version.
"""


def project_requirements(extra: str = "") -> list[Requirement]:
    """Return the dependencies in pyproject.toml, or those of an extra with the extras that it names."""
    project = read_toml(ROOT / "pyproject.toml", "the project")["project"]
    found = []
    for requirement in map(
        Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"]
    ):
        own = requirement.name == project["name"]
        found += (
            [r for other in requirement.extras for r in project_requirements(other)] if own else [requirement]
        )
    return [r for r in found if r.marker is None or r.marker.evaluate()]


def installed_dependencies(requirements: list[Requirement]) -> dict[str, str]:
    """Return the versions of all installed packages that requirements need, by name."""
    versions: dict[str, str] = {}
    visited: set[tuple[str, str]] = set()
    todo = [(requirement, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in visited or name == BY_INDEX:
            continue
        visited.add((name, extra))
        package = distribution(name)
        versions[name] = package.version
        for other in map(Requirement, package.requires or ()):
            if other.marker is None or other.marker.evaluate({"extra": extra}):
                todo += [(other, wanted) for wanted in ("", *other.extras)]
    return versions


def find_hashes(versions: dict[str, str]) -> dict[str, str]:
    """Return the SHA-256 of the file that pip takes for each package."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "requirements.txt", Path(folder) / "report.json"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--dry-run", "--ignore-installed", "--no-deps", "--report", str(report)),
                *("--requirement", str(requirements)),
            ],
            check=True,
        )
        installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(item["metadata"]["name"]): item["download_info"]["archive_info"]["hashes"]["sha256"]
        for item in installs
    }


def main() -> None:
    """Write the list."""
    versions = installed_dependencies(project_requirements() + project_requirements("dev"))
    hashes = find_hashes(versions)
    lines = [f"{name}=={versions[name]} --hash=sha256:{hashes[name]}\n" for name in sorted(versions)]
    python = ".".join(platform.python_version_tuple()[:2])
    LOCK.write_text(HEADER.format(python=python) + "".join(lines))
    print(f"wrote {LOCK}: {len(lines)} packages")


if __name__ == "__main__":
    main()
