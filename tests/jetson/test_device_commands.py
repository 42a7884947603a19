"""`aerogaze device`, as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome

Command = Callable[..., Outcome]
Make = Callable[..., Path]


def test_the_commands_do_it_all(
    command: Command, make: Make, public: Path, video: Path, tmp_path: Path
) -> None:
    root = tmp_path / "drone"

    def device(*words: str | Path, code: int = 0) -> Outcome:
        outcome = command("device", *words, "--root", root)
        assert outcome.code == code, outcome.err
        return outcome

    assert "no release" in device("status").out
    device("trust", public)
    told = json.loads(device("install", make(counter=1), "--json").out)
    assert (told["counter"], told["slot"], told["state"], told["precision"]) == (1, "a", "good", "int8")
    assert "marked good" in device("install", make(counter=2)).err
    status = json.loads(device("status", "--json").out)
    assert (status["counter"], status["previous"]) == (2, 1)
    run = command("run", video, "--release", status["path"], "--precision", status["precision"], "--json")
    assert json.loads(run.out)["frames"] == 12
    assert device("verify").out.count("is what was signed") == 2
    device("rollback")
    device("boot")
    assert [row["event"] for row in json.loads(device("history", "--json").out)] == ["install"] * 2 + [
        "rollback"
    ]
    refused = device("install", make(counter=1, runtime="0.0.1"), code=1)
    assert refused.err.splitlines()[-1].startswith("aerogaze: the bundle has counter 1")
    device("rollback", code=0)


def test_a_service_becomes_what_flies(make: Make, public: Path, command: Command, tmp_path: Path) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    command("device", "install", make(), "--root", root)
    words = [sys.executable, "-m", "edge.command", "device", "exec", "--root", str(root)]
    done = subprocess.run([*words, "echo", "{release}", "{precision}"], capture_output=True, text=True)
    assert done.stdout == f"{root}/slots/a/release int8\n"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"colour": 1}', "may have autopilot, engine, policy, service"),
        ('{"engine": "gpu"}', "unknown engine 'gpu'"),
        ('{"policy": "best"}', "policy 'best'; expected one as"),
        ('{"service": {}}', "service needs restart"),
        ('{"service": {"restart": "systemctl"}}', "must be a command as a list of words"),
        ('{"service": {"restart": ["x"], "watch_s": 1e9}}', "must be a number of seconds, at most 60"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    command: Command, tmp_path: Path, config: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b'{"schema":1}\n', b'{"schema":2}\n', b"\xff",
     b'{"counter":0,"current":"a","history":[],"previous":null,"schema":1,"seen_at":0,"slots":{},"trial":false}\n'],
)  # fmt: skip
def test_a_state_that_somebody_else_wrote_is_one_line(command: Command, tmp_path: Path, state: bytes) -> None:
    (tmp_path / "state.json").write_bytes(state)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_a_cut_ssh_session_takes_a_trial_back(
    make: Make, public: Path, command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    command("device", "install", make(counter=1), "--root", root)
    service = {"restart": ["true"], "health": ["true"], "watch_s": 30}
    (root / "config.json").write_text(json.dumps({"service": service}))
    words = ["device", "install", str(make(counter=2)), "--root", str(root)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.command", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "watching the service" in line:
            break
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.wait(timeout=20)
    status = json.loads(command("device", "status", "--root", root, "--json").out)
    assert (status["counter"], status["state"]) == (1, "good")


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="no setpriv on this machine")
def test_an_unprivileged_user_is_told_in_one_line() -> None:
    if (probe := as_nobody("pass")).returncode:
        pytest.skip(f"user 65534 cannot start this Python: {probe.stderr.strip().splitlines()[-1]}")
    with tempfile.TemporaryDirectory() as locked:  # pytest's own folders let nobody else in
        Path(locked).chmod(0o555)
        code = (
            "import sys; from edge.command import _exit_code; "
            "sys.exit(_exit_code(['device', 'rollback', '--root', sys.argv[1]]))"
        )
        done = as_nobody(code, str(Path(locked) / "drone"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot write the board" in done.stderr


def as_nobody(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    lower = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.getuid() == 0 else []
    return subprocess.run([*lower, sys.executable, "-c", code, *words], capture_output=True, text=True)
