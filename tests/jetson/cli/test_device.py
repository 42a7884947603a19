"""The command `aerogaze device`."""

from __future__ import annotations

import dataclasses
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

from edge.core.errors import InputError
from jetson.device.durable_disk import DurableDisk
from jetson.device.slot_state import BoardState, Slot, load_state, save_state
from jetson.signing import canonical_json
from tests.conftest import Outcome

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]


def test_device_commands_install_run_and_roll_back(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, video: Path, tmp_path: Path
) -> None:
    root = tmp_path / "drone"

    def device(*words: str | Path, code: int = 0) -> Outcome:
        outcome = command("device", *words, "--root", root)
        assert outcome.code == code, outcome.err
        return outcome

    device("trust", public_key_file)
    assert "no release" in device("status").out
    installed = json.loads(device("install", make_bundle(counter=1), "--json").out)
    assert (installed["counter"], installed["slot"], installed["state"], installed["precision"]) == (
        1,
        "a",
        "good",
        "int8",
    )
    assert "marked good" in device("install", make_bundle(counter=2)).err
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
    refused = device("install", make_bundle(counter=1, runtime="0.0.1"), code=1)
    assert refused.err.splitlines()[-1].startswith("aerogaze: the bundle has counter 1")
    device("rollback", code=0)


@pytest.mark.parametrize(
    "words", [["status"], ["history"], ["boot"], ["rollback"], ["reset-clock"], ["verify"], ["exec", "ls"]]
)
def test_command_for_a_missing_folder_is_refused_and_creates_nothing(
    command: Command, tmp_path: Path, words: list[str]
) -> None:
    root = tmp_path / "typing-error"
    outcome = command("device", words[0], "--root", root, *words[1:])
    assert outcome.code == 2
    assert f"no folder {root}; expected the folder of a board: correct --root" in outcome.err
    assert not root.exists()


def test_status_of_a_missing_folder_in_json_is_that_of_a_new_board(command: Command, tmp_path: Path) -> None:
    status = json.loads(command("device", "status", "--json", "--root", tmp_path / "new").out)
    assert (status["state"], status["trusts"]) == ("none", [])


def test_exec_replaces_placeholders_and_keeps_other_words(
    make_bundle: MakeBundle, public_key_file: Path, command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public_key_file, "--root", root)
    command("device", "install", make_bundle(), "--root", root)
    words = [sys.executable, "-m", "edge.cli.main", "device", "exec", "--root", str(root)]
    done = subprocess.run([*words, "echo", "{release}", "{precision}"], capture_output=True, text=True)
    assert done.stdout == f"{root}/slots/a/release int8\n"
    done = subprocess.run([*words, "printf", "<%s>", "", "--name="], capture_output=True, text=True)
    assert done.stdout == "<><--name=>", "other words are passed on unchanged"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"colour": 1}', "may have autopilot, engine, policy, service"),
        ('{"engine": "gpu"}', "unknown engine 'gpu'"),
        ('{"policy": "best"}', "policy 'best'; expected 'fastest within"),
        ('{"service": {}}', "service needs restart"),
        ('{"service": {"restart": "systemctl"}}', "must be a command as a list of words"),
        ('{"service": {"restart": ["x"], "watch_s": 1e9}}', "must be a number of seconds, at most 60"),
    ],
)
def test_invalid_configuration_exits_with_two(
    command: Command, tmp_path: Path, config: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_too_long_watch_refuses_installs_but_not_exec(
    command: Command, bundle: Path, public_key_file: Path, tmp_path: Path
) -> None:
    command("device", "trust", public_key_file, "--root", tmp_path)
    assert command("device", "install", bundle, "--root", tmp_path).code == 0
    (tmp_path / "config.json").write_text(
        '{"service": {"restart": ["true"], "watch_s": 60, "command_s": 60}}'
    )
    for words in (["install", bundle, "--reinstall"], ["rollback"]):
        outcome = command("device", *words, "--root", tmp_path)
        assert outcome.code == 2
        assert (
            "may be flown for 240 s; three command_s and watch_s together must be at most 210" in outcome.err
        )
    words = [
        sys.executable,
        "-m",
        "edge.cli.main",
        "device",
        "exec",
        "--root",
        str(tmp_path),
        "echo",
        "flies",
    ]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "flies\n"


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b'{"schema":1}\n', b'{"schema":2}\n', b"\xff",
     b'{"counter":0,"current":"a","history":[],"previous":null,"schema":1,"seen_at":0,"slots":{},"trial":false}\n'],
)  # fmt: skip
def test_invalid_state_file_exits_with_two(command: Command, tmp_path: Path, state: bytes) -> None:
    (tmp_path / "state.json").write_bytes(state)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [{"current": []}, {"current": 1}, {"previous": {}}, {"counter": "x"}, {"counter": True},
     {"seen_at": None}, {"seen_at": 1 << 60}, {"trial": "no"}, {"history": [1]}, {"history": ["x"]},
     {"history": [{"at": 0}]}, {"slots": []}],
)  # fmt: skip
def test_state_with_wrong_types_exits_with_two(
    command: Command, bundle: Path, public_key_file: Path, tmp_path: Path, wrong: dict[str, object]
) -> None:
    state = canonical_json.encode({"schema": 1, **dataclasses.asdict(BoardState()), **wrong})
    command("device", "trust", public_key_file, "--root", tmp_path)
    (tmp_path / "state.json").write_bytes(state)
    for words in (["status"], ["history"], ["install", bundle]):
        outcome = command("device", *words, "--root", tmp_path)
        assert outcome.code == 2
        assert "state.json is malformed" in outcome.err.splitlines()[-1]
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("slot", {"counter": "1"}), ("slot", {"release": 7}), ("slot", {"why": None}),
     ("slot", {"measured": [1]}), ("row", {"at": "today"}), ("row", {"event": []}),
     ("row", {"detail": 1}), ("row", {"counter": "1"})],
)  # fmt: skip
def test_slot_or_event_with_wrong_types_is_rejected(
    part: str, wrong: dict[str, object], tmp_path: Path
) -> None:
    slot = Slot("0" * 64, "r", 1, "int8", "onnxruntime", "fastest", ({"precision": "int8"},), 1)
    save_state(
        DurableDisk(), tmp_path, BoardState(current="a", slots={"a": slot}).with_event(1, "install", slot)
    )
    assert load_state(tmp_path).current_slot == slot
    document = json.loads((tmp_path / "state.json").read_bytes())
    (document["slots"]["a"] if part == "slot" else document["history"][0]).update(wrong)
    (tmp_path / "state.json").write_bytes(canonical_json.encode(document))
    with pytest.raises(InputError, match="is malformed"):
        load_state(tmp_path)


@pytest.mark.parametrize("words", [["install", "none.swu"], ["install", "cut.swu"], ["rollback"]])
def test_refused_command_creates_no_board(
    command: Command, tmp_path: Path, bundle: Path, words: list[str]
) -> None:
    (tmp_path / "cut.swu").write_bytes(bundle.read_bytes()[:5000])
    arguments = [tmp_path / word if word.endswith(".swu") else word for word in words]
    outcome = command("device", *arguments, "--root", tmp_path / "drone")
    assert outcome.code in (1, 2)
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "drone").exists()


def test_lost_ssh_session_reverts_the_trial(
    make_bundle: MakeBundle, public_key_file: Path, command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public_key_file, "--root", root)
    command("device", "install", make_bundle(counter=1), "--root", root)
    service = {"restart": ["true"], "health": ["true"], "watch_s": 24, "command_s": 2}
    (root / "config.json").write_text(json.dumps({"service": service}))
    words = ["device", "install", str(make_bundle(counter=2)), "--root", str(root)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli.main", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "watching the service" in line:
            break
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.wait(timeout=120)
    status = json.loads(command("device", "status", "--root", root, "--json").out)
    assert (status["counter"], status["state"]) == (1, "good")


@pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None,
    reason="no setpriv here (apt-get install util-linux)",
)
def test_missing_write_permission_exits_with_two(public_key_file: Path) -> None:
    if (probe := run_as_nobody("pass")).returncode:
        pytest.skip(f"user 65534 cannot start this Python: {probe.stderr.strip().splitlines()[-1]}")
    with tempfile.TemporaryDirectory() as locked:  # other users cannot enter the folders of pytest
        Path(locked).chmod(0o555)
        key = Path(locked) / "k.pub"
        shutil.copy(public_key_file, key)
        key.chmod(0o444)
        code = (
            "import sys; from edge.cli.main import run_cli; "
            "sys.exit(run_cli(['device', 'trust', sys.argv[2], '--root', sys.argv[1]]))"
        )
        done = run_as_nobody(code, str(Path(locked) / "drone"), str(key))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot write the board" in done.stderr


def run_as_nobody(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    lower = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.getuid() == 0 else []
    return subprocess.run([*lower, sys.executable, "-c", code, *words], capture_output=True, text=True)
