"""Tests of collecting wheels for a board: resolved for its Python and processor, not the desk's."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from edge.core.errors import InputError
from jetson.wheels.resolve import find_dependencies, lock_file, read_constraints, read_wheel
from jetson.wheels.self_wheel import build_own_wheel
from jetson.wheels.target_platform import JETPACKS, TargetPlatform, parse_platform
from jetson.wheels.wheel_set import REQUIREMENTS, write_own_wheel
from tests.conftest import Outcome, find_python
from tests.support.wheelhouse import is_index_reachable, make_stub_wheels

Command = Callable[..., Outcome]


def test_platform_name_and_tags_round_trip() -> None:
    platform = parse_platform("jetpack-6")
    assert platform == TargetPlatform(10, "aarch64", 35, "cuda12")
    assert parse_platform(str(platform)) == platform
    assert platform.platform_tags()[0] == "manylinux_2_35_aarch64"
    assert platform.platform_tags()[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


@pytest.mark.parametrize("text", ["jetpack-5", "cp310-musllinux_1_2_aarch64", "cp310-manylinux_2_35_armv7l"])
def test_platform_without_wheels_is_reported(command: Command, text: str) -> None:
    outcome = command("wheels", text)
    assert outcome.code == 2
    assert f"no wheels exist for {text!r}; expected jetpack-6, jetpack-7, or" in outcome.err


@pytest.mark.parametrize("text", ["cp39-manylinux_2_31_aarch64", "cp314-manylinux_2_39_x86_64"])
def test_unsupported_python_is_reported(command: Command, text: str) -> None:
    outcome = command("wheels", text)
    assert outcome.code == 2
    assert "aerogaze needs <3.14,>=3.10" in outcome.err


def test_own_wheel_is_reproducible_and_contains_no_networks(tmp_path: Path) -> None:
    (name, data), (_, again) = build_own_wheel(), build_own_wheel()
    assert data == again
    path = tmp_path / name
    path.write_bytes(data)
    names = zipfile.ZipFile(path).namelist()
    for expected in (
        "edge/cli/run/command.py",
        "jetson/aerogaze.service",
        "edge/sinks/web/page.html",
        "export/engines/build.py",
    ):
        assert expected in names
    assert not [name for name in names if name.endswith((".onnx", ".npz", ".safetensors", ".pyc"))]
    assert read_wheel(path).version.public == version("aerogaze")


def test_dependencies_follow_the_python_of_the_platform(tmp_path: Path) -> None:
    name, data = build_own_wheel()
    (tmp_path / name).write_bytes(data)
    own_wheel = read_wheel(tmp_path / name)
    missing = {
        minor: find_dependencies(own_wheel, TargetPlatform(minor, "aarch64", 35), {})[1] for minor in (10, 12)
    }
    assert {text.partition(">")[0] for text in missing[10] - missing[12]} == {"tomli"}
    assert any(text.startswith("cryptography") for text in missing[12])


def test_constraints_follow_the_python_of_the_platform() -> None:
    assert {"numpy==2.2.6", "onnxruntime==1.23.2"} <= set(read_constraints(parse_platform("jetpack-6")))
    assert {"numpy==2.4.6", "onnxruntime==1.31.1"} <= set(read_constraints(parse_platform("jetpack-7")))


@pytest.mark.xdist_group("wheels")
@pytest.mark.parametrize("jetpack", list(JETPACKS))
def test_wheels_are_resolved_without_a_compiler(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetpack: str
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached (connect to the internet, or set PIP_INDEX_URL)")
    platform, out = parse_platform(jetpack), tmp_path / "wheels"
    monkeypatch.setenv("CC", "/bin/false")
    outcome = command("wheels", jetpack, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    wheels = {parse_wheel_filename(name)[0]: parse_wheel_filename(name) for name in document["wheels"]}
    supported_tags = {
        *cpython_tags((3, platform.python_minor), platforms=platform.platform_tags()),
        *compatible_tags((3, platform.python_minor), f"cp3{platform.python_minor}", platform.platform_tags()),
    }
    assert all(tags & supported_tags for _, _, _, tags in wheels.values())
    assert {"aerogaze", "numpy", "onnxruntime", "opencv-python-headless", "pip", "cryptography", "pymavlink",
            "cuda-bindings"} <= set(wheels)  # fmt: skip
    assert ("tomli" in wheels, "typing-extensions" in wheels) == (
        (True, True) if platform.python_minor == 10 else (False,) * 2
    )
    assert not {"asyncssh", "torch", "onnx"} & set(wheels)
    assert len((out / REQUIREMENTS).read_text().splitlines()) == len(wheels) + 2
    # If that Python is installed, its own pip checks the set, without an index.
    if (python := find_python(platform.python)) is not None:
        pip_command = [
            python, "-m", "pip", "install", "--dry-run", "--no-index", "--ignore-installed", "--quiet",
            "--only-binary", ":all:", "--target", str(tmp_path / "none"), "--find-links", str(out),
            *(word for tag in platform.platform_tags() for word in ("--platform", tag)),
            f"aerogaze[{','.join(sorted(platform.extras))}]",
        ]  # fmt: skip
        result = subprocess.run(pip_command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert json.loads(command("wheels", jetpack, "--json").out) == document, (
        "a desk without an index uses the cache"
    )


def test_desk_without_index_and_cache_is_reported(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    outcome = command("wheels", "jetpack-6")
    assert outcome.code == 2
    assert "the wheels for cp310-manylinux_2_35_aarch64+cuda12 cannot be downloaded (pip: C" in outcome.err
    assert not list((tmp_path / "empty").rglob("*.txt"))


def test_unknown_platform_is_refused() -> None:
    with pytest.raises(InputError, match="no wheels exist for 'orin'"):
        parse_platform("orin")


@pytest.mark.parametrize("jetpack", list(JETPACKS))
def test_list_of_a_jetpack_has_hashes_and_the_versions_that_were_tested(jetpack: str, tmp_path: Path) -> None:
    platform = parse_platform(jetpack)
    lines = lock_file(platform).read_text().splitlines()
    rows = [re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    assert all(rows)
    locked = {row[1]: row[2] for row in rows if row}
    assert lines == sorted(lines)
    assert len(locked) == len(lines)
    assert "pip" in locked
    for constraint in map(Requirement, read_constraints(platform)):
        assert constraint.specifier.contains(locked[canonicalize_name(constraint.name)]), constraint
    own = write_own_wheel(tmp_path)
    for requirement in own.requirements_on(platform, platform.extras):
        name = canonicalize_name(requirement.name)
        assert name == own.name or requirement.specifier.contains(locked[name]), requirement


def test_wheel_with_another_hash_than_in_the_list_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_stub_wheels(tmp_path / "index")
    pip_version = parse_wheel_filename(next(index.glob("pip-*.whl")).name)[1]
    platform = parse_platform("jetpack-6")
    monkeypatch.setattr("jetson.wheels.resolve.LOCK_FOLDER", tmp_path)
    (tmp_path / f"{platform}.txt").write_text(f"pip=={pip_version} --hash=sha256:{'0' * 64}\n")
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    outcome = command("wheels", "jetpack-6")
    assert outcome.code == 2
    assert "is not the one that was tested" in outcome.err
    assert outcome.err.count("\n") == 2
    assert not list((tmp_path / "cache").rglob("pip-*"))
