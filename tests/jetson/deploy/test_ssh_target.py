"""Tests of errors of the SSH target: missing files at the desk, boards that are off, and full disks."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import os
from pathlib import Path

import pytest

from edge.core.errors import InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy.push import CommandResult, Log, is_transient
from jetson.deploy.ssh_target import UPLOAD_FOLDER, SshLogin, SshTarget
from tests.support.sshd import SshServer


def connection_error(login: SshLogin) -> InputError:
    async def connect() -> None:
        target = SshTarget(login, Path("/nowhere"))
        try:
            await target.shell("true")
        finally:
            await target.close()

    with pytest.raises(InputError) as error:
        asyncio.run(connect())
    return error.value


def test_missing_identity_is_named_and_not_transient(tmp_path: Path) -> None:
    error = connection_error(SshLogin("pilot", "127.0.0.1", 1, identity=tmp_path / "id"))
    assert str(error) == f"cannot read {tmp_path / 'id'}: No such file or directory; name another file"
    assert not is_transient(error)


def test_missing_known_hosts_is_named_and_not_transient(server: SshServer, tmp_path: Path) -> None:
    error = connection_error(SshLogin("pilot", "127.0.0.1", server.port, server.identity, tmp_path / "known"))
    assert str(tmp_path / "known") in str(error)
    assert not is_transient(error)


def test_unreachable_board_is_transient(tmp_path: Path) -> None:
    assert is_transient(connection_error(SshLogin("pilot", "127.0.0.1", 1)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"cannot write ~/.cache/aerogaze/arrived \(Failure\): check its disk"),
        ("/dev/x 9 9 0 100% /", r"the home folder on .* has 0 MiB free, 1 are needed: free some space"),
        ("nothing " * 9, r"cannot write ~/.cache/aerogaze/arrived \(Failure\): check its disk"),
    ],
)
def test_upload_that_a_disk_does_not_take_says_why(
    answer: str | None, message: str, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "b.swu"
    bundle.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    upload = server.home / UPLOAD_FOLDER / f"{digest}.swu"
    upload.parent.mkdir(parents=True, exist_ok=True)
    upload.symlink_to("/dev/full")
    target = SshTarget(
        SshLogin(getpass.getuser(), "127.0.0.1", server.port, server.identity, server.known_hosts), tmp_path
    )
    call = target._call

    async def answer_df(command: str, log: Log | None, limit_s: float) -> CommandResult:
        if answer is None or not command.startswith("df "):
            return await call(command, log, limit_s)
        return CommandResult(0, answer, "")

    monkeypatch.setattr(target, "_call", answer_df)

    async def send() -> None:
        try:
            await target.send(bundle, digest, lambda sent, total: None)
        finally:
            await target.close()

    with pytest.raises(InputError, match=message) as error:
        asyncio.run(send())
    assert not is_transient(error.value)
    assert not os.path.lexists(upload), "what was written of it is removed"
