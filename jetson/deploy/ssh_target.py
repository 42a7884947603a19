"""A board over SSH: host keys checked, keys from files or the agent, uploads that go on where they broke."""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from edge.core.errors import CheckError, InputError
from jetson.deploy.push import (
    CORRUPT_UPLOAD_MESSAGE,
    CommandResult,
    Log,
    OnProgress,
    UnreachableError,
    forward_lines,
)

UPLOAD_FOLDER = ".cache/aerogaze/arrived"
"""Where uploads go, in the home of the user there."""
BLOCK_BYTES = 1 << 20
LARGEST_ANSWER = 1 << 20
TRIES = 3
"""Uploads that break are taken up again so often; the next call goes on where this one broke, too."""


@dataclass(frozen=True)
class SshLogin:
    """Where and as whom. None: as ssh's own files say (~/.ssh/config, known_hosts, keys, agent)."""

    user: str
    host: str
    port: int | None = None
    identity: Path | None = None
    known_hosts: Path | None = None


def parse_login(text: str, **files: Path | None) -> SshLogin | None:
    """Read user@host or user@host:port; None is something else, as a folder.

    Raises:
        InputError: no port has that number.
    """
    match = re.fullmatch(r"([\w.-]+)@(\[[\w:.%]+\]|[\w.-]+)(?::(\d{1,5}))?", text)
    if match is None:
        return None
    user, host, port = match.groups()
    if port and not 0 < int(port) < 1 << 16:
        raise InputError(f"{text!r}: no host has a port {port}; expected 1 to 65535, or none for ssh's own")
    return SshLogin(user, host.strip("[]"), int(port) if port else None, **files)


class SshTarget:
    """Runs the board's commands over SSH; connects anew where a connection broke."""

    def __init__(self, login: SshLogin, root: Path, aerogaze: str = "aerogaze", sudo: bool = False) -> None:
        self.name = f"{login.user}@{login.host}"
        self.program = aerogaze
        self._login, self._root = login, root
        self._sudo = ["sudo", "-n"] if sudo else []
        self._connection: asyncssh.SSHClientConnection | None = None

    async def run(self, words: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run them without a terminal; what is begun there goes on if the connection breaks."""
        done = await self._call([*self._sudo, self.program, "device", *words, "--root", str(self._root)], log)
        if done.code == 127:
            raise InputError(
                f"{self.name} has no {self.program}: say --aerogaze PLACE/bin/aerogaze, or not --no-runtime"
            )
        return done

    async def shell(self, script: str, log: Log | None = None, sudo: bool = False) -> CommandResult:
        """Run a script by sh, with sudo if that was asked for."""
        return await self._call([*(self._sudo if sudo else []), "sh", "-c", script], log)

    async def _call(self, words: Sequence[str], log: Log | None) -> CommandResult:
        command = shlex.join(words)
        with _told(self.name):
            connection = await self._connected()
            async with connection.create_process(command, stdin=asyncssh.DEVNULL) as process:
                out, last = await asyncio.gather(_read(process.stdout), forward_lines(process.stderr, log))
                await process.wait()
        code = process.exit_status
        if code is None and process.exit_signal is None:
            raise UnreachableError(
                f"the connection to {self.name} broke; what was begun there goes on by itself: "
                "ask aerogaze device status there"
            )
        return CommandResult(1 if code is None else code, str(out), last)

    async def send(self, place: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        """Upload, going on after what is there already if its hash is right; see that all of it arrived."""
        name = f"{UPLOAD_FOLDER}/{name or digest + place.suffix}"
        for left in reversed(range(TRIES)):
            try:
                await self._upload(place, name, on_progress)
                break
            except (asyncssh.Error, OSError, UnreachableError) as error:
                await self.close()
                if not left:
                    raise UnreachableError(
                        f"the upload to {self.name} broke {TRIES} times ({_reason(error)}): "
                        "call it again, and it goes on where it broke"
                    ) from None
        if await self._hash(name, place.stat().st_size) != digest:
            await self.remove(name)
            raise CheckError(f"{CORRUPT_UPLOAD_MESSAGE} {self.name} is not what was sent: call it again")
        return name

    async def remove(self, name: str) -> None:
        """Remove what was sent; if the connection is gone it stays, and does no harm."""
        with suppress(asyncssh.Error, OSError, InputError):
            async with (await self._connected()).start_sftp_client() as sftp:
                await sftp.remove(name)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()
            self._connection = None

    async def _connected(self) -> asyncssh.SSHClientConnection:
        if self._connection is None:
            asyncio.get_running_loop().set_exception_handler(_unheard)
            login = self._login
            more: dict[str, Any] = {}
            if login.identity:
                more["client_keys"] = [str(login.identity)]
            if login.known_hosts:
                more["known_hosts"] = str(login.known_hosts)
            if login.port:
                more["port"] = login.port
            with _told(self.name):
                options = await asyncssh.SSHClientConnectionOptions.construct(
                    config=(), host=login.host, username=login.user, preferred_auth="publickey",
                    connect_timeout=15, keepalive_interval=5, keepalive_count_max=3, **more,
                )  # fmt: skip
                if options.known_hosts is None:
                    raise InputError(
                        "~/.ssh/config says UserKnownHostsFile none, so that no host key is checked: "
                        "name a file with --known-hosts"
                    )
                # Named again, so that no "Match final" in the file takes it away.
                self._connection = await asyncssh.connect(
                    login.host, options=options, known_hosts=options.known_hosts
                )
        return self._connection

    async def _upload(self, place: Path, name: str, on_progress: OnProgress) -> None:
        size = place.stat().st_size
        async with (await self._connected()).start_sftp_client() as sftp:
            await sftp.makedirs(posixpath.dirname(name), exist_ok=True)
            there = (await sftp.stat(name)).size if await sftp.exists(name) else 0
            start = await self._good(place, name, min(there or 0, size))
            with place.open("rb") as file:
                file.seek(start)
                async with sftp.open(name, "r+b" if there else "wb") as remote:
                    for at in range(start, size, BLOCK_BYTES):
                        on_progress(at, size)
                        await remote.write(file.read(BLOCK_BYTES), at)
                    await remote.truncate(size)
            on_progress(size, size)

    async def _good(self, place: Path, name: str, there: int) -> int:
        """Return how much of what is there is right: all, all but what was under way, or nothing."""
        for length in (there, (there // BLOCK_BYTES - 1) * BLOCK_BYTES):
            if length > 0 and await self._hash(name, length) == _hash_of_start(place, length):
                return length
        return 0

    async def _hash(self, name: str, length: int) -> str:
        with _told(self.name):
            command = f"head -c {length} {shlex.quote(name)} | sha256sum"
            done = await (await self._connected()).run(command, check=False)
        return str(done.stdout)[:64]


def _hash_of_start(place: Path, length: int) -> str:
    digest = hashlib.sha256()
    with place.open("rb") as file:
        for at in range(0, length, BLOCK_BYTES):
            digest.update(file.read(min(BLOCK_BYTES, length - at)))
    return digest.hexdigest()


async def _read(stream: asyncssh.SSHReader[str]) -> str:
    """Read to the end; a board that says more than any of ours is not believed."""
    read = ""
    while block := await stream.read(LARGEST_ANSWER):
        read += block
        if len(read) > LARGEST_ANSWER:
            raise InputError("the board's answer does not end: is aerogaze there what it should be?")
    return read


def _unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Leave out what asyncssh's own tasks say of a broken connection: who waits for it is told."""
    if not isinstance(context.get("exception"), (asyncssh.Error, OSError)):
        loop.default_exception_handler(context)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what SSH says into one line."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable:
        raise InputError(
            f"the host key of {name} is not the one that is known, or none is known: compare it with the "
            "board's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), then add it to known_hosts"
        ) from None
    except asyncssh.PermissionDenied:
        raise InputError(
            f"{name} takes none of your keys: name one with --identity, or start an agent that has it"
        ) from None
    except asyncssh.KeyImportError as error:
        raise InputError(f"an SSH key cannot be read ({error}): name another with --identity") from None
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        if isinstance(error, OSError) and error.filename:  # of the desk: --identity, --known-hosts
            raise InputError(f"cannot read {error.filename}: {error.strerror}; name another file") from None
        raise UnreachableError(
            f"cannot reach {name} ({_reason(error)}): is it on, and is SSH open there?"
        ) from None


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
