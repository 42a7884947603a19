"""Tests of errors of the SSH target: missing files at the desk, and boards that are off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge.core.errors import InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy.push import is_transient
from jetson.deploy.ssh_target import SshLogin, SshTarget
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
