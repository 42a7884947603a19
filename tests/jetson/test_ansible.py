"""The Ansible role against a real sshd: idempotent, honest in check mode, with the board's own words."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Outcome

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
from jetson.wheels.install_runtime import detect_platform
from tests.support.sshd import ROOT, SshServer
from tests.support.wheelhouse import is_index_reachable

PLAYBOOK = os.environ.get("ANSIBLE_PLAYBOOK") or shutil.which("ansible-playbook")
ANSIBLE = ROOT / "jetson" / "ansible"
Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
pytestmark = [
    pytest.mark.skipif(
        PLAYBOOK is None, reason="no ansible-playbook on the path, nor named by ANSIBLE_PLAYBOOK"
    ),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh here"),
    pytest.mark.xdist_group("wheels"),
]


class Played(NamedTuple):
    """How a playbook ended."""

    code: int
    changed: int
    said: str


@pytest.fixture
def play(server: SshServer, tmp_path: Path) -> Callable[..., Played]:
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
        "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",
        "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0",
    }  # fmt: skip

    def call(bundle: Path, *words: str, **values: object) -> Played:
        given = {
            "bundle": str(bundle), "aerogaze_root": str(tmp_path / "drone"),
            "aerogaze_desk_command": str(server.aerogaze), "aerogaze_command": str(server.aerogaze), **values,
        }  # fmt: skip
        done = subprocess.run(
            [str(PLAYBOOK), "-i", str(inventory), "-e", json.dumps(given), *words, str(ANSIBLE / "fly.yml")],
            capture_output=True, text=True, env={**os.environ, **desk}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        recap = re.search(r"drone-1 .*changed=(\d+)", done.stdout)
        return Played(done.returncode, int(recap.group(1)) if recap else 0, done.stdout + done.stderr)

    return call


def status(command: Command, root: Path) -> dict[str, object]:
    told: dict[str, object] = json.loads(command("device", "status", "--root", root, "--json").out)
    return told


def test_a_board_is_flown_once_and_check_mode_is_honest(
    play: Callable[..., Played],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    bundle, root = make_bundle(), tmp_path / "drone"
    dry = play(bundle, "--check", aerogaze_trust=str(public_key_file))
    assert dry.code == 0, dry.said
    assert dry.changed
    assert not root.exists()
    first = play(bundle, aerogaze_trust=str(public_key_file))
    assert first.code == 0, first.said
    assert first.changed
    assert (status(command, root)["counter"], status(command, root)["state"]) == (1, "good")
    for words in ((), ("--check",)):
        again = play(bundle, *words, aerogaze_trust=str(public_key_file))
        assert (again.code, again.changed) == (0, 0), again.said
    assert not list(root.rglob("*.swu"))


def test_a_refusal_is_the_boards_own_line(
    play: Callable[..., Played],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public_key_file, "--root", root)
    refused = play(make_bundle(), aerogaze_options=["--policy", "fastest within p99<=.0001"])
    assert refused.code == 2
    assert re.search(r"no precision may fly on this board.*\(a check did not hold;", refused.said), (
        refused.said
    )
    bad = play(make_bundle(), aerogaze_options=["--policy", "slowest"])
    assert "(wrong use or bad input; the board flies what it flew before)" in bad.said, bad.said
    assert status(command, root)["state"] == "none"
    assert not list(root.rglob("*.swu"))
    other = play(make_bundle(expires="2001-01-31"))
    assert "expired after 2001-01-31" in other.said, other.said


def test_another_release_of_the_same_counter_is_not_taken_for_it(
    play: Callable[..., Played],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "drone"
    assert command("flash", make_bundle(), root, "--trust", public_key_file).code == 0
    refused = play(make_bundle(expires="2099-01-31"))
    assert "another release with counter 1 is on the board" in refused.said, refused.said


def test_a_new_board_gets_a_runtime(
    play: Callable[..., Played],
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    tmp_path: Path,
) -> None:
    if not is_index_reachable():
        pytest.skip("no package index can be reached")
    wheels, place = tmp_path / "wheels", tmp_path / "opt/aerogaze"
    made = command("wheels", detect_platform(), "--out", wheels)
    assert made.code == 0, made.err
    more = {
        "aerogaze_wheels": str(wheels), "aerogaze_place": str(place), "aerogaze_trust": str(public_key_file),
        "aerogaze_command": f"{place}/bin/aerogaze",
    }  # fmt: skip
    if not Path("/usr/bin/python3").exists() or detect_platform().split("-")[0] != usr_python():
        more["aerogaze_python"] = sys.executable
    dry = play(make_bundle(), "--check", **more)
    assert dry.code == 0, dry.said
    assert dry.changed
    assert not place.exists()
    first = play(make_bundle(), **more)
    assert first.code == 0, first.said
    assert "include-system-site-packages = true" in (place / "pyvenv.cfg").read_text()
    again = play(make_bundle(), **more)
    assert (again.code, again.changed) == (0, 0), again.said


def usr_python() -> str:
    words = ["/usr/bin/python3", "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
