"""Tests of the installer of a board's runtime: it leaves a complete runtime, the old or the new one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetson.wheels.install_runtime import detect_platform
from jetson.wheels.wheel_set import REQUIREMENTS
from tests.conftest import find_python
from tests.support.wheelhouse import make_stub_wheels, run_installer


def version(link: Path) -> str:
    return subprocess.run([link / "bin/aerogaze", "--version"], capture_output=True, text=True).stdout.strip()


def runtimes(link: Path) -> set[str]:
    store = link.with_name(link.name + ".runtimes")
    return {entry.name for entry in store.iterdir() if entry.is_dir()}


def test_runtime_is_built_once_and_sees_the_system_packages(tmp_path: Path) -> None:
    wheels, link = make_stub_wheels(tmp_path / "wheels", installs_pip=True), tmp_path / "opt/aerogaze"
    code, changed, err = run_installer(wheels, link)
    assert (code, changed) == (0, True), err
    assert version(link) == "aerogaze 1.0"
    assert (link / "bin/pip").exists()
    assert "include-system-site-packages = true" in (link / "pyvenv.cfg").read_text()
    before, lock = os.readlink(link), link.with_name("aerogaze.runtimes") / "lock"
    lock.chmod(0o644)  # as older versions made it
    assert run_installer(wheels, link)[:2] == (0, False)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600, "no other user can hold it"
    assert os.readlink(link) == before


def test_upgrade_keeps_only_the_previous_runtime(tmp_path: Path) -> None:
    link, kept = tmp_path / "aerogaze", []
    for number in ("1.0", "2.0", "3.0"):
        assert run_installer(make_stub_wheels(tmp_path / number, number), link)[:2] == (0, True)
        assert version(link) == f"aerogaze {number}"
        kept.append(Path(os.readlink(link)).name)
    assert runtimes(link) == set(kept[1:])


@pytest.mark.parametrize("fault", ["changed", "missing", "broken"])
def test_incomplete_wheels_change_nothing(tmp_path: Path, fault: str) -> None:
    link = tmp_path / "aerogaze"
    assert run_installer(make_stub_wheels(tmp_path / "1", "1.0"), link)[0] == 0
    bad = make_stub_wheels(tmp_path / "2", "2.0", is_complete=fault != "broken")
    (wheel,) = bad.glob("aerogaze-*.whl")
    if fault == "changed":
        wheel.write_bytes(wheel.read_bytes() + b"\0")
    if fault == "missing":
        wheel.unlink()
    code, changed, err = run_installer(bad, link)
    assert (code, changed) == (2, False)
    expected = "the new runtime does not start: " if fault == "broken" else "pip failed: "
    assert err.splitlines()[-1].startswith(f"aerogaze: {expected}")
    assert version(link) == "aerogaze 1.0"


def test_armed_drone_keeps_its_runtime(tmp_path: Path) -> None:
    link = tmp_path / "aerogaze"
    assert run_installer(make_stub_wheels(tmp_path / "1", "1.0", armed=True), link)[0] == 0, (
        "a new board has no runtime to keep"
    )
    code, _, err = run_installer(make_stub_wheels(tmp_path / "2", "2.0", armed=True), link)
    assert (code, err.splitlines()[-1]) == (1, "aerogaze: the drone is armed")
    assert version(link) == "aerogaze 1.0"


def test_wheels_for_another_platform_are_refused(tmp_path: Path) -> None:
    wheels = make_stub_wheels(tmp_path / "wheels", platform="cp39-manylinux_2_35_riscv64")
    code, _, err = run_installer(wheels, tmp_path / "aerogaze")
    own = detect_platform()
    assert code == 2
    assert f"but this is {own}: make others with aerogaze wheels {own} --out DIR" in err


def test_folder_that_is_not_a_runtime_is_refused(tmp_path: Path) -> None:
    (tmp_path / "aerogaze").mkdir()
    code, _, err = run_installer(make_stub_wheels(tmp_path / "wheels"), tmp_path / "aerogaze")
    assert code == 2
    assert "is not a link to a runtime: move it away, or name another path" in err


def test_kill_at_any_time_leaves_the_old_or_the_new_runtime(tmp_path: Path) -> None:
    link = tmp_path / "aerogaze"
    assert run_installer(make_stub_wheels(tmp_path / "1", "1.0"), link)[0] == 0
    for attempt, delay_s in enumerate((0.1, 0.5, 1.0, 1.6), 2):
        old, wheels = version(link), make_stub_wheels(tmp_path / str(attempt), f"{attempt}.0")
        script = str(wheels / "install_runtime.py")
        with subprocess.Popen(
            [sys.executable, script, str(link)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(delay_s)
            process.kill()
        assert version(link) in (old, f"aerogaze {attempt}.0")
        for _ in range(600):  # a program that it started may still hold the lock
            code, _, err = run_installer(wheels, link)
            if "another command is installing a runtime" not in err:
                break
            time.sleep(0.1)
        assert code == 0, err
        assert version(link) == f"aerogaze {attempt}.0"
        assert len(runtimes(link)) <= 2


def test_runtime_without_requirements_is_built_again(tmp_path: Path) -> None:
    link, wheels = tmp_path / "aerogaze", make_stub_wheels(tmp_path / "wheels")
    assert run_installer(wheels, link)[0] == 0
    (link / REQUIREMENTS).unlink()
    (link / "bin/aerogaze").write_text("#!/bin/sh\nexit 3\n")
    assert run_installer(wheels, link)[:2] == (0, True)
    assert version(link) == "aerogaze 1.0"


def test_installer_runs_on_the_oldest_python(tmp_path: Path) -> None:
    python = find_python("3.10")
    if python is None:
        pytest.skip("no Python 3.10 here (pyenv install 3.10)")
    installer = make_stub_wheels(tmp_path / "wheels") / "install_runtime.py"
    result = subprocess.run(
        [python, str(installer), "--probe", "/no/aerogaze"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.startswith('{"machine": "cp310-manylinux_2_'), result.stderr
    assert '"runtime": null' in result.stdout
