"""What makes a board's runtime: beside the one in use, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetson.wheels.install_runtime import detect_platform
from jetson.wheels.wheel_set import REQUIREMENTS
from tests.conftest import find_python
from tests.support.wheelhouse import make, stub_wheels


def version(place: Path) -> str:
    return subprocess.run(
        [place / "bin/aerogaze", "--version"], capture_output=True, text=True
    ).stdout.strip()


def runtimes(place: Path) -> set[str]:
    store = place.with_name(place.name + ".runtimes")
    return {entry.name for entry in store.iterdir() if entry.is_dir()}


def test_a_runtime_is_made_once_and_sees_the_systems_packages(tmp_path: Path) -> None:
    wheels, place = stub_wheels(tmp_path / "wheels"), tmp_path / "opt/aerogaze"
    code, changed, told = make(wheels, place)
    assert (code, changed) == (0, True), told
    assert version(place) == "aerogaze 1.0"
    assert "include-system-site-packages = true" in (place / "pyvenv.cfg").read_text()
    before = os.readlink(place)
    assert make(wheels, place)[:2] == (0, False)
    assert os.readlink(place) == before


def test_an_upgrade_keeps_the_one_before_and_no_more(tmp_path: Path) -> None:
    place, kept = tmp_path / "aerogaze", []
    for number in ("1.0", "2.0", "3.0"):
        assert make(stub_wheels(tmp_path / number, number), place)[:2] == (0, True)
        assert version(place) == f"aerogaze {number}"
        kept.append(Path(os.readlink(place)).name)
    assert runtimes(place) == set(kept[1:])


@pytest.mark.parametrize("fault", ["changed", "missing", "broken"])
def test_what_cannot_be_whole_changes_nothing(tmp_path: Path, fault: str) -> None:
    place = tmp_path / "aerogaze"
    assert make(stub_wheels(tmp_path / "1", "1.0"), place)[0] == 0
    bad = stub_wheels(tmp_path / "2", "2.0", whole=fault != "broken")
    (wheel,) = bad.glob("aerogaze-*.whl")
    if fault == "changed":
        wheel.write_bytes(wheel.read_bytes() + b"\0")
    if fault == "missing":
        wheel.unlink()
    code, changed, told = make(bad, place)
    assert (code, changed) == (2, False)
    expected = "the new runtime does not start: " if fault == "broken" else "pip says: "
    assert told.splitlines()[-1].startswith(f"aerogaze: {expected}")
    assert version(place) == "aerogaze 1.0"


def test_an_armed_drone_keeps_its_runtime(tmp_path: Path) -> None:
    place = tmp_path / "aerogaze"
    assert make(stub_wheels(tmp_path / "1", "1.0", armed=True), place)[0] == 0, "a new board has none to keep"
    code, _, told = make(stub_wheels(tmp_path / "2", "2.0", armed=True), place)
    assert (code, told.splitlines()[-1]) == (1, "aerogaze: the drone is armed")
    assert version(place) == "aerogaze 1.0"


def test_wheels_for_another_machine_are_refused_with_the_remedy(tmp_path: Path) -> None:
    wheels = stub_wheels(tmp_path / "wheels", machine="cp39-manylinux_2_35_riscv64")
    code, _, told = make(wheels, tmp_path / "aerogaze")
    assert code == 2
    assert f"this is {detect_platform()}: aerogaze wheels {detect_platform()} --out DIR" in told


def test_a_folder_that_somebody_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "aerogaze").mkdir()
    code, _, told = make(stub_wheels(tmp_path / "wheels"), tmp_path / "aerogaze")
    assert code == 2
    assert "is not a runtime made here: move it away, or name another place" in told


def test_a_kill_at_any_time_leaves_the_old_runtime_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "aerogaze"
    assert make(stub_wheels(tmp_path / "1", "1.0"), place)[0] == 0
    for turn, delay_s in enumerate((0.1, 0.5, 1.0, 1.6), 2):
        old, wheels = version(place), stub_wheels(tmp_path / str(turn), f"{turn}.0")
        script = str(wheels / "install_runtime.py")
        with subprocess.Popen(
            [sys.executable, script, str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(delay_s)
            process.kill()
        assert version(place) in (old, f"aerogaze {turn}.0")
        for _ in range(100):  # what it started may still hold the lock
            code, _, told = make(wheels, place)
            if "another command makes a runtime" not in told:
                break
            time.sleep(0.1)
        assert code == 0, told
        assert version(place) == f"aerogaze {turn}.0"
        assert len(runtimes(place)) <= 2


def test_a_runtime_without_its_list_was_never_whole(tmp_path: Path) -> None:
    place, wheels = tmp_path / "aerogaze", stub_wheels(tmp_path / "wheels")
    assert make(wheels, place)[0] == 0
    (place / REQUIREMENTS).unlink()
    (place / "bin/aerogaze").write_text("#!/bin/sh\nexit 3\n")
    assert make(wheels, place)[:2] == (0, True)
    assert version(place) == "aerogaze 1.0"


def test_it_runs_on_the_oldest_python(tmp_path: Path) -> None:
    python = find_python("3.10")
    if python is None:
        pytest.skip("no Python 3.10 on this machine")
    done = subprocess.run(
        [python, str(stub_wheels(tmp_path / "wheels") / "install_runtime.py"), "--probe", "/no/aerogaze"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith('{"machine": "cp310-manylinux_2_'), done.stderr
    assert '"runtime": null' in done.stdout
