"""The desk's list of packages with hashes agrees with pyproject.toml and with the constraints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge.core.toml_reader import read_toml

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"([a-z0-9][a-z0-9.-]*)==(\S+) --hash=sha256:[0-9a-f]{64}")
LEFT_OUT = {"torch"}
"""Its builds, for the CPU or for a version of CUDA, differ by package index."""


@pytest.fixture(scope="module")
def lock() -> tuple[str, dict[str, str]]:
    """Python version of the list, and the version of each package."""
    header: list[str] = []
    lines: list[str] = []
    for line in (ROOT / "locked.txt").read_text().splitlines():
        (header if line.startswith("#") else lines).append(line)
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), "each line has one version and one hash"
    python = re.search(r"Python (3\.\d+)", " ".join(header))
    assert python is not None
    return python[1], {match[1]: match[2] for match in matches if match is not None}


def _requirements(extra: str, python: str) -> list[Requirement]:
    """Return what an extra needs with that Python on Linux, other extras of aerogaze included."""
    project = read_toml(ROOT / "pyproject.toml", "the project")["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = []
    for requirement in map(Requirement, texts):
        environment = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
        if requirement.name == "aerogaze":
            for other in requirement.extras:
                found += _requirements(other, python)
        elif requirement.marker is None or requirement.marker.evaluate(environment):
            found.append(requirement)
    return found


def test_every_dependency_of_the_desk_is_locked_in_a_version_that_it_allows(
    lock: tuple[str, dict[str, str]],
) -> None:
    python, versions = lock
    for requirement in _requirements("", python) + _requirements("dev", python):
        name = canonicalize_name(requirement.name)
        if name not in LEFT_OUT:
            assert name in versions, f"{name} is missing: run .ci/lock.py"
            assert requirement.specifier.contains(versions[name], prereleases=True), name
    assert not LEFT_OUT & versions.keys()


def test_locked_versions_are_those_of_the_constraints(lock: tuple[str, dict[str, str]]) -> None:
    python, versions = lock
    for file in (ROOT / "constraints.txt", ROOT / "jetson" / "constraints.txt"):
        for line in file.read_text().splitlines():
            if not line or line.startswith(("#", "-c")):
                continue
            requirement = Requirement(line.partition(" #")[0])
            name = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate({"python_version": python})
            if applies and name in versions:
                assert requirement.specifier.contains(versions[name]), f"{name}: run .ci/lock.py"
