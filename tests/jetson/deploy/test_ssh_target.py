"""What is said of files of the desk that SSH needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge.core.errors import InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
from jetson.deploy.push import is_transient
from jetson.deploy.ssh_target import SshLogin, SshTarget
from tests.support.sshd import SshServer


def refused(login: SshLogin) -> InputError:
    async def ask() -> None:
        target = SshTarget(login, Path("/nowhere"))
        try:
            await target.shell("true")
        finally:
            await target.close()

    with pytest.raises(InputError) as told:
        asyncio.run(ask())
    return told.value


def test_a_missing_identity_is_named_and_not_tried_again(tmp_path: Path) -> None:
    error = refused(SshLogin("pilot", "127.0.0.1", 1, identity=tmp_path / "id"))
    assert str(error) == f"cannot read {tmp_path / 'id'}: No such file or directory; name another file"
    assert not is_transient(error)


def test_missing_known_hosts_are_named(server: SshServer, tmp_path: Path) -> None:
    error = refused(SshLogin("pilot", "127.0.0.1", server.port, server.identity, tmp_path / "known"))
    assert str(tmp_path / "known") in str(error)
    assert not is_transient(error)


def test_a_board_that_is_off_may_be_on_later(tmp_path: Path) -> None:
    assert is_transient(refused(SshLogin("pilot", "127.0.0.1", 1)))
