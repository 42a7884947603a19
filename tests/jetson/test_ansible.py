"""Tests of the Ansible role over a real sshd: idempotence, check mode, and error messages."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Outcome

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.wheels.install_runtime import detect_platform
from tests.support.sshd import ROOT, SshServer
from tests.support.wheelhouse import is_index_reachable, make_stub_wheels

PLAYBOOK = os.environ.get("ANSIBLE_PLAYBOOK") or shutil.which("ansible-playbook")
ANSIBLE = ROOT / "jetson" / "ansible"
Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
pytestmark = [
    pytest.mark.skipif(
        PLAYBOOK is None,
        reason="no ansible-playbook on the path, nor named by ANSIBLE_PLAYBOOK (pip install ansible-core)",
    ),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here (apt-get install openssh-client)"),
    pytest.mark.xdist_group("wheels"),
    pytest.mark.first,
]


class PlaybookResult(NamedTuple):
    """Exit code of a playbook, number of changed tasks, and output."""

    code: int
    changed: int
    output: str


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder for the sockets of SSH connections, whose paths must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def play(server: SshServer, tmp_path: Path, sockets: Path) -> Callable[..., PlaybookResult]:
    """Run the example playbook against one board."""
    known = tmp_path / "known"
    known.write_text(server.known_hosts.read_text().replace("127.0.0.1", f"[127.0.0.1]:{server.port}"))
    board = {
        "ansible_host": "127.0.0.1", "ansible_port": server.port, "ansible_user": getpass.getuser(),
        "ansible_ssh_private_key_file": str(server.identity), "ansible_python_interpreter": sys.executable,
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes",
        "ansible_become": False,
    }  # fmt: skip
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"drones": {"hosts": {"drone-1": board}}}))
    desk = {
        "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "ANSIBLE_ROLES_PATH": str(ANSIBLE / "roles"),
        "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=5s",
        "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0",
    }  # fmt: skip

    def call(bundle: Path, *arguments: str, **values: object) -> PlaybookResult:
        variables = {
            "bundle": str(bundle), "aerogaze_root": str(tmp_path / "drone"),
            "aerogaze_desk_command": str(server.aerogaze), "aerogaze_command": str(server.aerogaze), **values,
        }  # fmt: skip
        result = subprocess.run(
            [
                str(PLAYBOOK), "-i", str(inventory), "-e", json.dumps(variables), *arguments,
                str(ANSIBLE / "fly.yml"),
            ],
            capture_output=True, text=True, env={**os.environ, **desk}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        recap = re.search(r"drone-1 .*changed=(\d+)", result.stdout)
        return PlaybookResult(
            result.returncode, int(recap.group(1)) if recap else 0, result.stdout + result.stderr
        )

    return call


def read_status(command: Command, root: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(command("device", "status", "--root", root, "--json").out)
    return document


def test_role_installs_once_and_check_mode_changes_nothing(
    play: Callable[..., PlaybookResult],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    bundle, root = make_bundle(), tmp_path / "drone"
    dry = play(bundle, "--check", aerogaze_trust=str(public_key_file))
    assert dry.code == 0, dry.output
    assert dry.changed
    assert not root.exists()
    left, download = root / "arrived" / f"{1:064x}.swu", root / "arrived" / "15.swu"
    left.parent.mkdir(parents=True)
    for path in (left, download):
        path.touch()
        os.utime(path, (0, 0))
    first = play(bundle, aerogaze_trust=str(public_key_file))
    assert not left.exists(), "an interrupted play left it"
    download.unlink()  # it is the update agent's
    assert first.code == 0, first.output
    assert first.changed
    assert (read_status(command, root)["counter"], read_status(command, root)["state"]) == (1, "good")
    for arguments in ((), ("--check",)):
        again = play(bundle, *arguments, aerogaze_trust=str(public_key_file))
        assert (again.code, again.changed) == (0, 0), again.output
    assert not list(root.rglob("*.swu"))


def test_refusal_shows_the_message_of_the_board(
    play: Callable[..., PlaybookResult],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public_key_file, "--root", root)
    refused = play(make_bundle(), aerogaze_options=["--policy", "fastest within p99<=0.0001"])
    assert refused.code == 2
    assert re.search(r"no precision may fly on this board.*\(a check failed;", refused.output), refused.output
    bad = play(make_bundle(), aerogaze_options=["--policy", "slowest"])
    assert "(wrong usage or invalid input; the board keeps its release)" in bad.output, bad.output
    assert read_status(command, root)["state"] == "none"
    assert not list(root.rglob("*.swu"))
    other = play(make_bundle(expires="2001-01-31"))
    assert "expired after 2001-01-31" in other.output, other.output


def test_another_release_with_the_same_counter_is_refused(
    play: Callable[..., PlaybookResult],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "drone"
    assert command("flash", make_bundle(), root, "--trust", public_key_file).code == 0
    refused = play(make_bundle(expires="2099-01-31"))
    assert "another release with counter 1 is on the board" in refused.output, refused.output


def test_new_board_gets_a_runtime(
    play: Callable[..., PlaybookResult],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached (connect to the internet, or set PIP_INDEX_URL)")
    wheels, runtime = tmp_path / "wheels", tmp_path / "opt/aerogaze"
    outcome = command("wheels", detect_platform(), "--out", wheels)
    assert outcome.code == 0, outcome.err
    variables = {
        "aerogaze_wheels": str(wheels), "aerogaze_place": str(runtime),
        "aerogaze_trust": str(public_key_file),
        "aerogaze_command": f"{runtime}/bin/aerogaze",
    }  # fmt: skip
    if not Path("/usr/bin/python3").exists() or detect_platform().split("-")[0] != system_python():
        variables["aerogaze_python"] = sys.executable
    few_wheels = make_stub_wheels(tmp_path / "few")  # Ansible takes a second for each file that it copies
    beside_playbook = os.path.relpath(few_wheels, ANSIBLE)
    dry = play(make_bundle(), "--check", **{**variables, "aerogaze_wheels": beside_playbook})
    assert dry.code == 0, dry.output
    assert dry.changed
    assert len(re.findall(r"^changed: .*item=.*\.whl\)$", dry.output, re.M)) == len(
        list(few_wheels.glob("*.whl"))
    )
    assert not runtime.exists()
    # The board has the wheels of the packages, as before an upgrade; one is damaged, and one is not needed.
    there = tmp_path / "drone/arrived/wheels"
    shutil.copytree(wheels, there, ignore=shutil.ignore_patterns("aerogaze-*", "*.txt", "*.py"))
    damaged, old = next(there.glob("click-*.whl")), there / "aerogaze-0.0.1-py3-none-any.whl"
    for wheel in (damaged, old):
        wheel.write_bytes(b"incomplete")
    first = play(make_bundle(), **variables)
    assert first.code == 0, first.output
    sent = re.findall(r"^changed: \[drone-1\] => \(item=(.*)\)$", first.output, re.M)
    assert sorted(Path(path).name.partition("-")[0] for path in sent) == [
        "aerogaze", "aerogaze", "click", "install_runtime.py", "requirements.txt",
    ], first.output  # fmt: skip
    assert {path.name for path in there.iterdir()} == {path.name for path in wheels.iterdir()}
    assert "include-system-site-packages = true" in (runtime / "pyvenv.cfg").read_text()
    again = play(make_bundle(), **variables)
    assert (again.code, again.changed) == (0, 0), again.output


def system_python() -> str:
    arguments = ["/usr/bin/python3", "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"]
    return subprocess.run(arguments, capture_output=True, text=True).stdout.strip()
