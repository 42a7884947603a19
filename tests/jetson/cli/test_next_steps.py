"""Each long command on the way to a board ends with the next step, but not as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]


def _next_step(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    steps = [line for line in outcome.out.splitlines() if line.startswith("next: ")]
    assert steps == outcome.out.splitlines()[-1:]
    return steps[0].removeprefix("next: ")


def test_bundle_names_the_command_that_installs_it(
    command: Command, small_release: Path, tmp_path: Path
) -> None:
    key, out = tmp_path / "k", tmp_path / "b.swu"
    assert command("keys", "new", "--out", key).code == 0
    words = ("bundle", small_release, "--key", key, "--out", out)
    assert _next_step(command(*words)) == f"aerogaze flash {out} USER@BOARD --trust {key}.pub"
    assert json.loads(command(*words, "--json").out)["counter"] == 1


def test_flash_names_the_command_that_shows_the_board(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
    words = ("flash", make_bundle(), f"{tmp_path}/drone", "--folder", "--trust", public_key_file)
    assert _next_step(command(*words, "--dry-run")) == "the same command without --dry-run"
    assert _next_step(command(*words)) == "aerogaze device status, on the board"


def test_install_names_the_command_that_shows_the_board(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    assert command("device", "trust", public_key_file, "--root", root).code == 0
    outcome = command("device", "install", make_bundle(), "--root", root)
    assert _next_step(outcome) == f"aerogaze device status --root {root}"
    as_json = command("device", "install", make_bundle(counter=2), "--root", root, "--json")
    assert json.loads(as_json.out)["counter"] == 2
