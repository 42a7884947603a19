"""Tests of the desk against a board that floods, hangs or sends control characters, by a real SSH server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import InputError
from edge.core.foreign_text import printable

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
import asyncssh

from jetson.deploy.command_output import MAX_OUTPUT_CHARS, forward_lines, read_output
from jetson.deploy.push import UnreachableError
from jetson.deploy.ssh_target import SshLogin, SshTarget

Handler = Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]


async def flood_stdout(process: asyncssh.SSHServerProcess[bytes]) -> None:
    while True:
        process.stdout.write(b"x" * 65536)
        await process.stdout.drain()


async def flood_lines(process: asyncssh.SSHServerProcess[bytes]) -> None:
    while True:
        process.stderr.write(b"line\n" * 1000)
        await process.stderr.drain()


async def flood_one_line(process: asyncssh.SSHServerProcess[bytes]) -> None:
    while True:
        process.stderr.write(b"x" * 65536)
        await process.stderr.drain()


async def hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
    await asyncio.sleep(1000)


async def drip(process: asyncssh.SSHServerProcess[bytes]) -> None:
    while True:
        process.stdout.write(b" ")
        await asyncio.sleep(0.05)


async def close_streams_and_hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stdout.write_eof()
    await asyncio.sleep(1000)


def run_against(
    handler: Handler, folder: Path, work: Callable[[SshTarget], Awaitable[object]], **settings: object
) -> object:
    """Do some work at the desk against a server whose commands are all run by `handler`."""

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            await handler(process)
        except (OSError, asyncssh.Error):
            return
        process.exit(0)

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    async def run() -> object:
        key = asyncssh.generate_private_key("ssh-ed25519")
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], server_factory=Server, process_factory=handle,
            encoding=None, **settings,
        )  # fmt: skip
        port = server.get_port()
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
        target = SshTarget(SshLogin("pilot", "127.0.0.1", port, known_hosts=known_hosts), Path("/nowhere"))
        try:
            return await work(target)
        finally:
            await target.close()
            server.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEP_LIMIT_S", "BLOCK_LIMIT_S"):
        monkeypatch.setattr(f"jetson.deploy.ssh_target.{name}", 0.5)


@pytest.mark.parametrize("handler", [flood_stdout, flood_lines, flood_one_line])
def test_flood_of_output_is_one_error_within_a_bound_of_memory(
    handler: Handler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jetson.deploy.ssh_target.STEP_LIMIT_S", 60.0)
    lines: list[str] = []
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="exceeds"):
            run_against(handler, tmp_path, lambda target: target.run(["status", "--json"], lines.append))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert sum(map(len, lines)) <= MAX_OUTPUT_CHARS


@pytest.mark.parametrize("handler", [hang, drip, close_streams_and_hang])
def test_command_that_does_not_end_is_an_unreachable_board(handler: Handler, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"has not finished a command within 0\.5 s"):
        run_against(handler, tmp_path, lambda target: target.run(["status", "--json"]))


def test_install_on_a_board_that_falls_silent_may_go_on(tmp_path: Path) -> None:
    async def work(target: SshTarget) -> None:
        started = asyncio.Event()
        install = asyncio.ensure_future(target.run(["install", "b.swu"], lambda line: started.set()))
        await started.wait()
        assert target._connection is not None
        # As asyncssh does without an answer to its keepalives.
        target._connection.connection_lost(asyncssh.ConnectionLost("Server not responding to keepalive"))
        await install

    async def write_and_hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(b"writing slot b\n")
        await hang(process)

    message = r"broke \(Server not responding to keepalive\), but the command there may go on: run aerogaze"
    with pytest.raises(UnreachableError, match=message):
        run_against(write_and_hang, tmp_path, work)


def test_board_can_be_used_again_after_a_command_that_hung(tmp_path: Path) -> None:
    calls: list[str] = []

    async def hang_once(process: asyncssh.SSHServerProcess[bytes]) -> None:
        calls.append(str(process.command))
        if len(calls) == 1:
            await hang(process)
        process.stdout.write(b"well")

    async def work(target: SshTarget) -> str:
        with pytest.raises(UnreachableError):
            await target.shell("true")
        return (await target.shell("true")).stdout

    assert run_against(hang_once, tmp_path, work) == "well"


class HangingFiles(asyncssh.SFTPServer):
    """Files of a board that stops answering at one operation."""

    hangs_at = ""

    async def _hang(self, operation: str, file_obj: object = None) -> None:
        if operation == type(self).hangs_at:
            if file_obj is not None:
                super().close(file_obj)
            await asyncio.sleep(1000)

    async def stat(self, path: bytes) -> Any:
        await self._hang("stat")
        return super().stat(path)

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        await self._hang("open")
        return super().open(path, pflags, attrs)

    async def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        await self._hang("write", file_obj)
        return super().write(file_obj, offset, data)

    async def close(self, file_obj: object) -> None:
        await self._hang("close", file_obj)
        super().close(file_obj)


@pytest.mark.parametrize("operation", ["stat", "open", "write", "close"])
def test_upload_to_a_board_that_stops_answering_ends(tmp_path: Path, operation: str) -> None:
    files = type("Files", (HangingFiles,), {"hangs_at": operation})
    home = tmp_path / "home"
    home.mkdir()
    bundle = tmp_path / "b.swu"
    bundle.write_bytes(os.urandom(10_000))
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    with pytest.raises(UnreachableError, match="broke 3 times"):
        run_against(
            hang, tmp_path, lambda target: target.send(bundle, digest, lambda sent, total: None),
            sftp_factory=lambda channel: files(channel, chroot=str(home).encode()),
        )  # fmt: skip


@pytest.mark.parametrize("handler", [flood_stdout, hang])
def test_hash_of_an_upload_has_limits(handler: Handler, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    bundle = tmp_path / "b.swu"
    bundle.write_bytes(b"content")
    with pytest.raises(InputError):
        run_against(
            handler, tmp_path, lambda target: target.send(bundle, "0" * 64, lambda sent, total: None),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(home).encode()),
        )  # fmt: skip


def test_lines_of_a_board_cannot_control_the_terminal(tmp_path: Path) -> None:
    text = (
        b"a\x1b]0;title\x07\x1b[2J\x1b]52;c;cm0=\x07 b\xff\r\n\x9b31m"
        + b"y" * 9000
        + b"\naerogaze: \x1b[31mno\n"
    )

    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stderr.write(text)

    lines: list[str] = []
    result = run_against(answer, tmp_path, lambda target: target.run(["status"], lines.append))
    assert all(line.isprintable() and len(line) <= 2000 for line in lines)
    assert len(lines) == 2
    assert result.last_line == printable("\x1b[31mno")  # type: ignore[attr-defined]


class Blocks:
    """Stream of the given blocks."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = list(blocks)

    async def read(self, n: int = -1, /) -> bytes:
        return self._blocks.pop(0) if self._blocks else b""


def test_lines_and_characters_that_are_split_over_blocks_are_whole() -> None:
    lines: list[str] = []
    blocks = b"one\ntw", b"o \xc3", b"\xa9\nthree"
    assert asyncio.run(forward_lines(Blocks(*blocks), lines.append)) == "three"
    assert lines == ["one", "two é", "three"]
    assert asyncio.run(read_output(Blocks(*blocks))) == "one\ntwo é\nthree"
