"""A board without aerogaze: this machine, over a real sshd, with a place of its own for the runtime."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.atomic_files import cache_folder
from tests.conftest import Outcome

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
from jetson.deploy import runtime_provisioning as runtime
from jetson.deploy.push import CommandResult, Log, OnProgress, load_bundle
from jetson.deploy.runtime_provisioning import RuntimeProvisioner
from jetson.deploy.ssh_target import UPLOAD_FOLDER
from jetson.wheels.install_runtime import detect_platform
from jetson.wheels.target_platform import TargetPlatform
from jetson.wheels.wheel_set import WheelSet
from tests.support.sshd import SshServer, cutting_proxy
from tests.support.wheelhouse import is_index_reachable

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
pytestmark = pytest.mark.xdist_group("wheels")


def words(server: SshServer, place: Path, port: int | None = None) -> list[str]:
    return [*server.words(port)[:-1], f"{place}/bin/aerogaze"]


def test_a_new_board_gets_a_runtime_and_flies(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached")
    place, root = tmp_path / "opt/aerogaze", tmp_path / "drone"
    options = [*words(server, place), "--root", root, "--trust", public_key_file]
    dry = command("flash", make_bundle(), *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert "it would get " in dry.err
    assert "numpy " in dry.err
    assert not place.exists()
    with cutting_proxy(server.port, 20 << 20, times=3) as wire:
        first = command("flash", make_bundle(), *words(server, place, wire.port), *options[-4:])
    assert first.code == 0, first.err
    size = sum(wheel.stat().st_size for wheel in (server.home / UPLOAD_FOLDER / "wheels").glob("*.whl"))
    assert size < wire.sent < size + (24 << 20), "what broke went on"
    assert "has no aerogaze yet" in first.err
    assert "installing the wheels" in first.err
    assert "flies skd-64 counter 1" in first.out
    sees = "import sys, numpy; print(numpy.__file__)"
    told = subprocess.run([place / "bin/python", "-I", "-c", sees], capture_output=True, text=True)
    assert told.stdout.startswith(str(tmp_path)), "what was carried comes before the system's"
    assert "include-system-site-packages = true" in (place / "pyvenv.cfg").read_text()
    second = command("flash", make_bundle(counter=2), *options)
    assert second.code == 0, second.err
    assert "wheels" not in second.err, "what is new enough is left as it is"
    before = place.resolve()
    with cutting_proxy(server.port, 1 << 40, times=0) as wire:
        same = command(
            "flash", make_bundle(counter=3), *words(server, place, wire.port), "--root", root, "--runtime"
        )
    assert same.code == 0, same.err
    assert "its runtime is the one that would be carried" in same.err
    assert wire.sent < 2 << 20
    assert place.resolve() == before
    status = subprocess.run(
        [place / "bin/aerogaze", "device", "status", "--root", root, "--json"], capture_output=True, text=True
    )
    assert json.loads(status.stdout)["counter"] == 3


def test_a_board_with_an_aerogaze_of_its_own_keeps_it(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    options = [*server.words(), "--root", tmp_path / "drone", "--trust", public_key_file]
    outcome = command("flash", make_bundle(), *options)
    assert outcome.code == 0, outcome.err
    assert "wheels" not in outcome.err
    refused = command("flash", make_bundle(counter=2), *options, "--runtime")
    assert refused.code == 2
    assert "no runtime can be put at" in refused.err
    newer = command("flash", make_bundle(counter=2, runtime="99.0"), *options)
    assert newer.code == 1
    assert "the bundle needs aerogaze 99.0" in newer.err


def test_a_bundle_that_is_too_new_for_the_desk_is_told_before_anything_is_sent(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    outcome = command(
        "flash",
        make_bundle(runtime="99.0"),
        *words(server, tmp_path / "opt/aerogaze"),
        "--trust",
        public_key_file,
    )
    assert outcome.code == 1
    assert "the bundle needs aerogaze 99.0, the desk has" in outcome.err


class Here:
    """A board whose shell is this machine's, and that is sent nothing."""

    name, program = "here", ""

    async def shell(self, script: str, log: Log | None = None, sudo: bool = False) -> CommandResult:
        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    async def send(self, place: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        raise AssertionError(f"{place} is sent")


def test_a_dry_run_sends_nothing_to_a_board_without_runtime(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def collect_wheels(machine: TargetPlatform, log: Log) -> WheelSet:
        asked.append(str(machine))
        return WheelSet(machine, (), "")

    monkeypatch.setattr(runtime, "gather", collect_wheels)
    said: list[str] = []
    wish = RuntimeProvisioner(command=str(tmp_path / "bin/aerogaze"))
    ready = wish.ensure(Here(), load_bundle(bundle).manifest, True, said.append, lambda done, of: None)
    assert asyncio.run(ready) is None
    assert asked == [detect_platform()]
    assert "nothing was done (dry run)" in said[-1]


def test_a_desk_without_index_says_so(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"AEROGAZE_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == tmp_path
    outcome = command(
        "flash", make_bundle(), *words(server, tmp_path / "opt/aerogaze"), "--root", tmp_path / "drone"
    )
    assert outcome.code == 2
    assert f"the wheels for {detect_platform()} cannot be gathered" in outcome.err.splitlines()[-1]


def test_no_runtime_asks_for_none(
    command: Command, make_bundle: MakeBundle, server: SshServer, tmp_path: Path
) -> None:
    options = [*words(server, tmp_path / "opt/aerogaze"), "--root", tmp_path / "drone", "--no-runtime"]
    outcome = command("flash", make_bundle(), *options)
    assert outcome.code == 2
    assert "say --aerogaze PLACE/bin/aerogaze, or not --no-runtime" in outcome.err


def test_a_folder_has_no_runtime(command: Command, make_bundle: MakeBundle, tmp_path: Path) -> None:
    outcome = command("flash", make_bundle(), tmp_path / "drone", "--runtime")
    assert outcome.code == 2
    assert "is a folder, which this desk's own aerogaze works on" in outcome.err
