"""Which wheels a board gets: resolved for its Python and processor, not for this one's."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("asyncssh", reason="the desk's packages are not installed")
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from edge.core.errors import InputError
from jetson.wheels.resolve import find_dependencies, read_constraints, read_wheel
from jetson.wheels.self_wheel import build_own_wheel
from jetson.wheels.target_platform import JETPACKS, TargetPlatform, parse_platform
from jetson.wheels.wheel_set import REQUIREMENTS
from tests.conftest import Outcome, find_python
from tests.support.wheelhouse import is_index_reachable

Command = Callable[..., Outcome]


def test_a_machine_is_spelt_as_wheels_are_tagged() -> None:
    six = parse_platform("jetpack-6")
    assert six == TargetPlatform(10, "aarch64", 35, "cuda12")
    assert parse_platform(str(six)) == six
    assert six.platform_tags()[0] == "manylinux_2_35_aarch64"
    assert six.platform_tags()[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


@pytest.mark.parametrize("text", ["jetpack-5", "cp310-musllinux_1_2_aarch64", "cp310-manylinux_2_35_armv7l"])
def test_a_machine_that_nobody_builds_wheels_for_is_one_line(command: Command, text: str) -> None:
    outcome = command("wheels", text)
    assert outcome.code == 2
    assert f"no wheels are gathered for {text!r}; expected jetpack-6, jetpack-7, or" in outcome.err


@pytest.mark.parametrize("text", ["cp39-manylinux_2_31_aarch64", "cp314-manylinux_2_39_x86_64"])
def test_a_python_that_is_too_old_or_new_is_one_line(command: Command, text: str) -> None:
    outcome = command("wheels", text)
    assert outcome.code == 2
    assert "aerogaze needs <3.14,>=3.10" in outcome.err


def test_our_wheel_is_the_same_each_time_and_has_no_network_in_it(tmp_path: Path) -> None:
    (name, data), (_, again) = build_own_wheel(), build_own_wheel()
    assert data == again
    place = tmp_path / name
    place.write_bytes(data)
    names = zipfile.ZipFile(place).namelist()
    for inside in (
        "edge/cli/run.py",
        "jetson/aerogaze.service",
        "edge/sinks/web/page.html",
        "export/engines/build.py",
    ):
        assert inside in names
    assert not [n for n in names if n.endswith((".onnx", ".npz", ".safetensors", ".pyc"))]
    assert read_wheel(place).version.public == version("aerogaze")


def test_what_is_needed_depends_on_the_machines_python(tmp_path: Path) -> None:
    name, data = build_own_wheel()
    (tmp_path / name).write_bytes(data)
    own = read_wheel(tmp_path / name)
    missing = {cp: find_dependencies(own, TargetPlatform(cp, "aarch64", 35), {})[1] for cp in (10, 12)}
    assert {one.partition(">")[0] for one in missing[10] - missing[12]} == {"tomli"}
    assert any(one.startswith("cryptography") for one in missing[12])


def test_constraints_are_those_of_the_machines_python() -> None:
    assert {"numpy==2.2.6", "onnxruntime==1.23.2"} <= set(read_constraints(parse_platform("jetpack-6")))
    assert {"numpy==2.4.6", "onnxruntime==1.31.1"} <= set(read_constraints(parse_platform("jetpack-7")))


@pytest.mark.xdist_group("wheels")
@pytest.mark.parametrize("jetpack", list(JETPACKS))
def test_a_boards_wheels_are_resolved_without_a_compiler(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetpack: str
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached")
    machine, out = parse_platform(jetpack), tmp_path / "wheels"
    monkeypatch.setenv("CC", "/bin/false")
    outcome = command("wheels", jetpack, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    found = {parse_wheel_filename(name)[0]: parse_wheel_filename(name) for name in told["wheels"]}
    runs = {
        *cpython_tags((3, machine.minor), platforms=machine.platform_tags()),
        *compatible_tags((3, machine.minor), f"cp3{machine.minor}", machine.platform_tags()),
    }
    assert all(tags & runs for _, _, _, tags in found.values())
    assert {"aerogaze", "numpy", "onnxruntime", "opencv-python-headless", "pip", "cryptography", "pymavlink",
            "cuda-bindings"} <= set(found)  # fmt: skip
    assert ("tomli" in found, "typing-extensions" in found) == (
        (True, True) if machine.minor == 10 else (False,) * 2
    )
    assert not {"asyncssh", "torch", "onnx"} & set(found)
    assert len((out / REQUIREMENTS).read_text().splitlines()) == len(found) + 2
    if (python := find_python(machine.python)) is not None:  # the judge: that Python's own pip, with no index
        words = [python, "-m", "pip", "install", "--dry-run", "--no-index", "--ignore-installed", "--quiet",
                 "--only-binary", ":all:", "--target", str(tmp_path / "none"), "--find-links", str(out),
                 *(w for p in machine.platform_tags() for w in ("--platform", p)),
                 f"aerogaze[{','.join(sorted(machine.extras))}]"]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert json.loads(command("wheels", jetpack, "--json").out) == told, "a desk without an index has the set"


def test_a_desk_without_index_and_set_is_told_in_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    outcome = command("wheels", "jetpack-6")
    assert outcome.code == 2
    assert "the wheels for cp310-manylinux_2_35_aarch64+cuda12 cannot be gathered (pip: C" in outcome.err
    assert not list((tmp_path / "empty").rglob("*.txt"))


def test_a_spelling_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="no wheels are gathered for 'orin'"):
        parse_platform("orin")
