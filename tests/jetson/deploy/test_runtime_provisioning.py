"""Tests of installing the runtime on a board: this machine over a real sshd, with a new folder."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.atomic_files import cache_folder
from tests.conftest import Outcome

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy import runtime_provisioning
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
pytestmark = [pytest.mark.xdist_group("wheels"), pytest.mark.first]


def flash_arguments(server: SshServer, runtime: Path, port: int | None = None) -> list[str]:
    """Return target and options of `aerogaze flash`, with the runtime in a folder of its own."""
    return [*server.flash_arguments(port)[:-1], f"{runtime}/bin/aerogaze"]


def test_new_board_gets_a_runtime_and_flies(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached (connect to the internet, or set PIP_INDEX_URL)")
    runtime, root = tmp_path / "opt/aerogaze", tmp_path / "drone"
    options = [*flash_arguments(server, runtime), "--root", root, "--trust", public_key_file]
    dry = command("flash", make_bundle(), *options, "--dry-run")
    assert dry.code == 0, dry.err
    assert "the board would get " in dry.err
    assert "numpy " in dry.err
    assert not runtime.exists()
    with cutting_proxy(server.port, 20 << 20, times=3) as proxy:
        first = command("flash", make_bundle(), *flash_arguments(server, runtime, proxy.port), *options[-4:])
    assert first.code == 0, first.err
    size = sum(wheel.stat().st_size for wheel in (server.home / UPLOAD_FOLDER / "wheels").glob("*.whl"))
    assert size < proxy.sent < size + (24 << 20), "broken uploads are resumed"
    assert "has no aerogaze yet" in first.err
    assert "installing the wheels" in first.err
    assert "flies skd-64 counter 1" in first.out
    script = "import sys, numpy; print(numpy.__file__)"
    result = subprocess.run([runtime / "bin/python", "-I", "-c", script], capture_output=True, text=True)
    assert result.stdout.startswith(str(tmp_path)), "the runtime's packages come before the system's"
    assert "include-system-site-packages = true" in (runtime / "pyvenv.cfg").read_text()
    second = command("flash", make_bundle(counter=2), *options)
    assert second.code == 0, second.err
    assert "wheels" not in second.err, "a runtime that is new enough is kept"
    before = runtime.resolve()
    with cutting_proxy(server.port, 1 << 40, times=0) as proxy:
        same = command(
            "flash",
            make_bundle(counter=3),
            *flash_arguments(server, runtime, proxy.port),
            "--root",
            root,
            "--runtime",
        )
    assert same.code == 0, same.err
    assert "the board has this runtime already" in same.err
    assert proxy.sent < 2 << 20
    assert runtime.resolve() == before
    status = subprocess.run(
        [runtime / "bin/aerogaze", "device", "status", "--root", root, "--json"],
        capture_output=True,
        text=True,
    )
    assert json.loads(status.stdout)["counter"] == 3


def test_board_with_its_own_aerogaze_keeps_it(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    options = [*server.flash_arguments(), "--root", tmp_path / "drone", "--trust", public_key_file]
    outcome = command("flash", make_bundle(), *options)
    assert outcome.code == 0, outcome.err
    assert "wheels" not in outcome.err
    refused = command("flash", make_bundle(counter=2), *options, "--runtime")
    assert refused.code == 2
    assert "no runtime can be installed at" in refused.err
    newer = command("flash", make_bundle(counter=2, runtime="99.0"), *options)
    assert newer.code == 1
    assert "the bundle needs aerogaze 99.0" in newer.err


def test_bundle_too_new_for_the_desk_is_refused_before_the_upload(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    outcome = command(
        "flash",
        make_bundle(runtime="99.0"),
        *flash_arguments(server, tmp_path / "opt/aerogaze"),
        "--trust",
        public_key_file,
    )
    assert outcome.code == 1
    assert "the bundle needs aerogaze 99.0, but this desk has" in outcome.err


class LocalShellTarget:
    """A board whose shell is that of this machine, and that accepts no files."""

    name, program = "local", ""

    async def shell(
        self, script: str, log: Log | None = None, sudo: bool = False, limit_s: float | None = None
    ) -> CommandResult:
        result = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
        return CommandResult(result.returncode, result.stdout, result.stderr)

    async def send(self, path: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        raise AssertionError(f"{path} is sent")


def test_dry_run_sends_nothing_to_a_board_without_runtime(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platforms: list[str] = []

    def collect_wheels(platform: TargetPlatform, log: Log) -> WheelSet:
        platforms.append(str(platform))
        return WheelSet(platform, (), "")

    monkeypatch.setattr(runtime_provisioning, "collect_wheels", collect_wheels)
    lines: list[str] = []
    provisioner = RuntimeProvisioner(command=str(tmp_path / "bin/aerogaze"))
    ready = provisioner.ensure(
        LocalShellTarget(), load_bundle(bundle).manifest, True, lines.append, lambda sent, total: None
    )
    assert asyncio.run(ready) is None
    assert platforms == [detect_platform()]
    assert "nothing was changed (dry run)" in lines[-1]


def test_desk_without_package_index_is_reported(
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
        "flash",
        make_bundle(),
        *flash_arguments(server, tmp_path / "opt/aerogaze"),
        "--root",
        tmp_path / "drone",
    )
    assert outcome.code == 2
    assert f"the wheels for {detect_platform()} cannot be downloaded" in outcome.err.splitlines()[-1]


def test_no_runtime_option_installs_none(
    command: Command, make_bundle: MakeBundle, server: SshServer, tmp_path: Path
) -> None:
    options = [
        *flash_arguments(server, tmp_path / "opt/aerogaze"),
        "--root",
        tmp_path / "drone",
        "--no-runtime",
    ]
    outcome = command("flash", make_bundle(), *options)
    assert outcome.code == 2
    assert "name it with --aerogaze PLACE/bin/aerogaze, or omit --no-runtime" in outcome.err


def test_runtime_option_is_refused_for_a_folder(
    command: Command, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    outcome = command("flash", make_bundle(), tmp_path / "drone", "--runtime")
    assert outcome.code == 2
    assert "is a folder, which uses the aerogaze of this desk" in outcome.err
