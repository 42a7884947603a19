"""Tests of commands with files that are silent pipes, too deep or of wrong types: one line, exit code 2."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy.push import load_bundle
from jetson.fleet.rollout_journal import RolloutJournal
from tests.conftest import Outcome

Command = Callable[..., Outcome]
DEEP = b'{"a": ' + b"[" * 100_000
CONTENTS: dict[str, bytes | None] = {
    "pipe": None,
    "deep": DEEP,
    "deep but closed": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "long integer": b'{"counter": ' + b"9" * 5000 + b"}",
    "infinite": b'{"counter": 1e999, "policy": 1e999}',
    "large": b" " * (2 << 20) + b"{}",
    "no UTF-8": b"\xff\xfe\x00",
    "empty": b"",
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize(
    "words",
    [
        ("device", "trust", "{file}", "--root", "{root}"),
        ("keys", "trust", "{file}", "--out", "{root}/t.json"),
        ("bundle", "skd-32", "--key", "{file}", "--out", "{root}/b.swu"),
        ("bundle", "--list", "{file}"),
        ("bundle", "--verify", "{bundle}", "--trust", "{file}"),
        ("fleet", "{bundle}", "{file}"),
        ("fleet", "{bundle}", "{inventory}", "--state", "{file}", "--dry-run"),
        ("device", "status", "--root", "{root}", "state.json"),
        ("device", "history", "--root", "{root}", "state.json"),
        ("device", "status", "--root", "{root}", "config.json"),
        ("device", "status", "--root", "{root}", "trust.json"),
    ],
    ids=" ".join,
)
def test_command_ends_in_one_line(
    command: Command,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    kind: str,
) -> None:
    monkeypatch.setattr("edge.core.guarded_files.PIPE_TIMEOUT_S", 0.05)  # nobody writes to the pipe
    root = tmp_path / "drone"
    root.mkdir()
    (tmp_path / "fleet.toml").write_text('[hosts]\n"./drone" = {}\n')
    is_file_of_board = words[-1].endswith(".json") and "{" not in words[-1]
    file = root / words[-1] if is_file_of_board else tmp_path / "file"
    content = CONTENTS[kind]
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    places = {"file": file, "root": root, "bundle": bundle, "inventory": tmp_path / "fleet.toml"}
    arguments = [word.format_map(places) for word in (words[:-1] if is_file_of_board else words)]
    outcome = command(*arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("aerogaze: ")
    assert not (root / "b.swu").exists()


@pytest.mark.parametrize(
    "change",
    [{"why": 5}, {"why": None}, {"done": "yes"}, {"done": 1}, {"place": []}, {"precision": 7}, {"tries": "1"},
     {"tries": True}, {"seconds": None}, {"ended_at": {}}, {"host": 3}, {"unknown": 1}],
    ids=str,
)  # fmt: skip
def test_journal_with_a_value_of_another_type_is_refused(
    command: Command, bundle: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    (tmp_path / "fleet.toml").write_text('[hosts]\n"./drone" = {}\n')
    row = {"host": "./drone", "place": "x", "done": False, "why": "off", "precision": None, "tries": 1,
           "seconds": 1.5, "ended_at": 7}  # fmt: skip
    header = {"schema": 1, "bundle": load_bundle(bundle).digest}
    state = tmp_path / "state"
    state.write_text("\n".join(map(json.dumps, (header, row))))
    assert RolloutJournal(state, str(header["bundle"]))["./drone"].tries == 1
    state.write_text("\n".join(map(json.dumps, (header, {**row, **change}))))
    outcome = command("fleet", bundle, tmp_path / "fleet.toml", "--state", state, "--dry-run")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "is not the journal of a roll-out" in outcome.err


def test_names_and_reasons_of_a_fleet_cannot_control_the_terminal(
    command: Command, bundle: Path, tmp_path: Path
) -> None:
    name = "\x1b]0;title\x07drone\u202e"
    (tmp_path / "fleet.toml").write_text(
        '[hosts]\n"\\u001b]0;title\\u0007drone\\u202e" = {address = "./d"}\n'
    )
    outcome = command("fleet", bundle, tmp_path / "fleet.toml", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert all(line.isprintable() for line in outcome.out.splitlines())
    assert name not in outcome.out
