"""The command `aerogaze flash`, where its parts fail in a way that nobody foresaw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import TRACEBACK_VARIABLE
from tests.conftest import Outcome

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every push fail as if a board had answered something that no check expects."""

    async def push(*arguments: object) -> None:
        raise KeyError("release")

    pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
    monkeypatch.setattr("jetson.deploy.host.push_bundle", push)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("is_set", [False, True])
def test_unforeseen_exception_is_one_line_and_a_traceback_if_asked(
    command: Command,
    make_bundle: MakeBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_set: bool,
) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1" if is_set else "")
    outcome = command("flash", make_bundle(), "--folder", tmp_path / "drone")
    assert outcome.code == 1
    *before, line = outcome.err.splitlines()
    assert line == (
        f"aerogaze: {tmp_path / 'drone'}: its answer cannot be used (KeyError: 'release'); "
        f"update aerogaze on it, or see where it failed with {TRACEBACK_VARIABLE}=1"
    )
    assert ("KeyError: 'release'" in before) == is_set == bool(before)
