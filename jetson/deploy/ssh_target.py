"""Push target over SSH: checks host keys, uses keys from files or the agent, and resumes broken uploads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from edge.core.errors import CheckError, InputError
from edge.core.foreign_text import printable
from jetson.deploy.command_output import forward_lines, read_output
from jetson.deploy.push import (
    CORRUPT_UPLOAD_MESSAGE,
    CommandResult,
    Log,
    OnProgress,
    UnreachableError,
)

UPLOAD_FOLDER = ".cache/aerogaze/arrived"
"""Folder of uploads, in the home folder of the board's user."""
UPLOAD_NAME = re.compile(r"[0-9a-f]{64}(\.\w+)?")
"""Names there: the SHA-256 of a file, and its suffix."""
BLOCK_BYTES = 1 << 20
STEP_LIMIT_S = 25.0
"""Longest time of a step that takes seconds, such as connecting or a status."""
BLOCK_LIMIT_S = 60.0
"""Longest time for the upload of a block."""
INSTALL_LIMIT_S = 7200.0
"""Longest time of an install. Building TensorRT engines takes minutes on the smallest board."""
MIN_HASH_RATE = 4 << 20
"""Bytes per second that the slowest storage of a board can read."""
MAX_REASON_CHARS = 200
UPLOAD_ATTEMPTS = 3
"""Attempts of one call. Later calls also resume where the last attempt broke."""
T = TypeVar("T")
COMMAND_NOT_FOUND = 127
"""Exit code of a shell if the command does not exist."""


@dataclass(frozen=True)
class SshLogin:
    """User and address of an SSH server.

    Attributes:
        user: User on the board.
        host: Host name or address.
        port: TCP port; None for the one of ~/.ssh/config, else 22.
        identity: Private key; None for the keys of ~/.ssh and the agent.
        known_hosts: File of host keys; None for ~/.ssh/known_hosts.
    """

    user: str
    host: str
    port: int | None = None
    identity: Path | None = None
    known_hosts: Path | None = None


def parse_login(text: str, **files: Path | None) -> SshLogin | None:
    """Parse user@host or user@host:port.

    Args:
        text: The text to parse.
        **files: `identity` and `known_hosts` of the login.

    Returns:
        The login, or None if the text has another form, such as a folder.

    Raises:
        InputError: The port is not from 1 to 65535.
    """
    match = re.fullmatch(r"([\w.-]+)@(\[[\w:.%]+\]|[\w.-]+)(?::(\d{1,5}))?", text)
    if match is None:
        return None
    user, host, port = match.groups()
    if port and not 0 < int(port) < 1 << 16:
        raise InputError(
            f"{text!r}: port {port} does not exist; expected 1 to 65535, or none for the default"
        )
    return SshLogin(user, host.strip("[]"), int(port) if port else None, **files)


class SshTarget:
    """Runs a board's commands over SSH, and reconnects after a broken connection.

    Args:
        login: User and address of the board.
        root: Aerogaze's folder on the board.
        program: Aerogaze command on the board; can be set later.
        sudo: Run commands with sudo, without a password.
    """

    def __init__(self, login: SshLogin, root: Path, program: str = "aerogaze", sudo: bool = False) -> None:
        self.name = f"{login.user}@{login.host}"
        self.program = program
        self._login, self._root = login, root
        self._sudo = ["sudo", "-n"] if sudo else []
        self._connection: asyncssh.SSHClientConnection | None = None

    async def run(self, arguments: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run `aerogaze device ARGUMENTS` without a terminal; it goes on if the connection breaks."""
        command = [*self._sudo, self.program, "device", *arguments, "--root", str(self._root)]
        limit_s = INSTALL_LIMIT_S if arguments[0] == "install" else STEP_LIMIT_S
        result = await self._call(shlex.join(command), log, limit_s)
        if result.exit_code == COMMAND_NOT_FOUND:
            raise InputError(
                f"{self.name} has no {self.program}: name it with --aerogaze PLACE/bin/aerogaze, "
                "or omit --no-runtime"
            )
        return result

    async def shell(
        self, script: str, log: Log | None = None, sudo: bool = False, limit_s: float | None = None
    ) -> CommandResult:
        """Run a script with sh, and with sudo if both this call and the target allow it.

        It may take `limit_s` seconds, or `STEP_LIMIT_S` for None.
        """
        command = [*(self._sudo if sudo else []), "sh", "-c", script]
        return await self._call(shlex.join(command), log, STEP_LIMIT_S if limit_s is None else limit_s)

    async def _call(self, command: str, log: Log | None, limit_s: float) -> CommandResult:
        with _translate_ssh_errors(self.name):
            connection = await self._connect()
            try:
                return await asyncio.wait_for(self._run_command(connection, command, log), limit_s)
            except asyncio.TimeoutError:
                raise UnreachableError(
                    f"{self.name} has not finished a command within {limit_s:g} s, which may go on: "
                    "check the board, and run the command again"
                ) from None

    async def _run_command(
        self, connection: asyncssh.SSHClientConnection, command: str, log: Log | None
    ) -> CommandResult:
        process = await connection.create_process(command, stdin=asyncssh.DEVNULL, errors="replace")
        readers = [
            asyncio.ensure_future(read_output(process.stdout)),
            asyncio.ensure_future(forward_lines(process.stderr, log)),
        ]
        try:
            stdout, last_line = await asyncio.gather(*readers)
            await process.wait()
        except (asyncssh.Error, OSError) as error:  # no answer to keepalives: the cable, or the board is off
            self._abort()
            raise self._broken_connection(f" ({_reason(error)})") from None
        except BaseException:
            # Not closed politely: a board that floods or hangs would not answer that either.
            self._abort()
            raise
        finally:
            for reader in readers:
                reader.cancel()
        exit_code = process.exit_status
        if exit_code is None and process.exit_signal is None:
            raise self._broken_connection()
        return CommandResult(1 if exit_code is None else exit_code, stdout, last_line)

    def _broken_connection(self, reason: str = "") -> UnreachableError:
        return UnreachableError(
            f"the connection to {self.name} broke{reason}, but the command there may go on: "
            "run aerogaze device status on the board"
        )

    async def send(self, path: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        """Upload a file, after the part that is on the board already, and check its hash there.

        Args:
            path: The file.
            digest: Its SHA-256.
            on_progress: Called with the number of bytes sent and the total.
            name: Name in the upload folder; None for the digest.

        Returns:
            Name of the file on the board, relative to the home folder.

        Raises:
            UnreachableError: The connection broke in each attempt.
            InputError: The board cannot write the file.
            CheckError: The uploaded file has another hash; it was removed.
        """
        if name is None:
            name = digest + path.suffix
            await self._remove_leftovers(name)
        name = f"{UPLOAD_FOLDER}/{name}"
        for attempts_left in reversed(range(UPLOAD_ATTEMPTS)):
            try:
                await self._upload(path, name, on_progress)
                arrived = await self._remote_hash(name, path.stat().st_size)
                break
            except asyncssh.SFTPFailure as error:  # OpenSSH's word for a disk that is full or broken, too
                raise await self._explain_failure(path, name, error) from None
            except (asyncssh.Error, OSError, asyncio.TimeoutError, UnreachableError) as error:
                await self.close()
                if not attempts_left:
                    raise UnreachableError(
                        f"the upload to {self.name} broke {UPLOAD_ATTEMPTS} times ({_reason(error)}): "
                        "run the command again to resume it"
                    ) from None
        if arrived != digest:
            await self.remove(name)
            raise CheckError(
                f"{CORRUPT_UPLOAD_MESSAGE} {self.name} differs from the file that was sent: "
                "run the command again"
            )
        return name

    async def _explain_failure(self, path: Path, name: str, error: asyncssh.SFTPFailure) -> InputError:
        """Remove a file that the board could not write, and return why: OpenSSH only says that it failed."""
        folder, needed = posixpath.dirname(name), path.stat().st_size
        await self.remove(name)
        answer = await self._call(f"df -Pk {shlex.quote(folder)} | tail -n 1", None, STEP_LIMIT_S)
        device_size_used_free = r"\S+\s+\d+\s+\d+\s+(\d{1,15})\s"
        match = re.match(device_size_used_free, answer.stdout, re.ASCII)
        free = int(match.group(1)) << 10 if match else needed
        if free < needed:
            return InputError(
                f"the home folder on {self.name} has {free >> 20} MiB free, {(needed >> 20) + 1} are needed: "
                "free some space"
            )
        return InputError(f"{self.name} cannot write ~/{folder} ({_reason(error)}): check its disk")

    async def remove(self, name: str) -> None:
        """Remove a file that was sent; without a connection it stays, which does no harm."""
        with suppress(asyncssh.Error, OSError, asyncio.TimeoutError, InputError):
            async with self._sftp() as sftp:
                await _limit(sftp.remove(name))

    async def _remove_leftovers(self, kept: str) -> None:
        """Remove the uploads of flashes that were interrupted, except one; they stay if that fails.

        Another desk may be sending a file at this moment. Then the file grows at least every
        `BLOCK_LIMIT_S`, or its hash is computed, or the install is about to open it.
        """
        try:
            now = int((await self._call("date +%s", None, STEP_LIMIT_S)).stdout)  # by the board's own clock
            async with self._sftp() as sftp:
                for entry in await _limit(sftp.readdir(UPLOAD_FOLDER)):
                    name = str(entry.filename)
                    if name != kept and UPLOAD_NAME.fullmatch(name) and _is_leftover(entry.attrs, now):
                        await _limit(sftp.remove(f"{UPLOAD_FOLDER}/{name}"))
        except asyncssh.SFTPError:
            return  # there is no such folder yet
        except (asyncssh.Error, OSError, asyncio.TimeoutError, InputError, ValueError):
            await self.close()

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with suppress(asyncio.TimeoutError):
                await _limit(connection.wait_closed())

    def _abort(self) -> None:
        """Close the connection without waiting for the board."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    @asynccontextmanager
    async def _sftp(self) -> AsyncIterator[asyncssh.SFTPClient]:
        """Open a client for files; it ends without waiting for the board."""
        sftp = await _limit((await self._connect()).start_sftp_client())
        try:
            yield sftp
        finally:
            sftp.exit()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        """Return the open connection, or a new one."""
        if self._connection is None:
            asyncio.get_running_loop().set_exception_handler(_ignore_connection_errors)
            with _translate_ssh_errors(self.name):
                options = await self._connection_options()
                # Passed again, because "Match final" in ~/.ssh/config could still clear it.
                self._connection = await _limit(
                    asyncssh.connect(self._login.host, options=options, known_hosts=options.known_hosts)
                )
        return self._connection

    async def _connection_options(self) -> asyncssh.SSHClientConnectionOptions:
        login = self._login
        overrides: dict[str, Any] = {}
        if login.identity:
            overrides["client_keys"] = [str(login.identity)]
        if login.known_hosts:
            overrides["known_hosts"] = str(login.known_hosts)
        if login.port:
            overrides["port"] = login.port
        options: asyncssh.SSHClientConnectionOptions = await asyncssh.SSHClientConnectionOptions.construct(
            config=(), host=login.host, username=login.user, preferred_auth="publickey",
            connect_timeout=15, keepalive_interval=5, keepalive_count_max=3, **overrides,
        )  # fmt: skip
        if options.known_hosts is None:  # asyncssh would accept any host key then
            raise InputError(
                "~/.ssh/config sets UserKnownHostsFile to none, so no host key is checked: "
                "name a file with --known-hosts"
            )
        return options

    async def _upload(self, path: Path, name: str, on_progress: OnProgress) -> None:
        size = path.stat().st_size
        async with self._sftp() as sftp:
            await _limit(sftp.makedirs(posixpath.dirname(name), exist_ok=True))
            exists = await _limit(sftp.exists(name))
            remote_size = (await _limit(sftp.stat(name))).size or 0 if exists else 0
            start = await self._valid_length(path, name, min(remote_size, size))
            remote = await _limit(sftp.open(name, "r+b" if remote_size else "wb"))
            with path.open("rb") as file:
                file.seek(start)
                for offset in range(start, size, BLOCK_BYTES):
                    on_progress(offset, size)
                    await asyncio.wait_for(remote.write(file.read(BLOCK_BYTES), offset), BLOCK_LIMIT_S)
            await _limit(remote.truncate(size))
            await _limit(remote.close())
            on_progress(size, size)

    async def _valid_length(self, path: Path, name: str, remote_size: int) -> int:
        """Return how many bytes at the start of the remote file equal the local file.

        Tries all bytes, then all but the last block and the partial one, which a broken connection can leave
        incomplete, then none.
        """
        for length in (remote_size, (remote_size // BLOCK_BYTES - 1) * BLOCK_BYTES):
            if length > 0 and await self._remote_hash(name, length) == _hash_of_start(path, length):
                return length
        return 0

    async def _remote_hash(self, name: str, length: int) -> str:
        command = f"head -c {length} {shlex.quote(name)} | sha256sum"
        return (await self._call(command, None, _hash_limit_s(length))).stdout[:64]


def _is_leftover(attributes: asyncssh.SFTPAttrs, now: int) -> bool:
    """Return whether nobody can be sending or installing a file any more."""
    in_use_s = BLOCK_LIMIT_S + _hash_limit_s(attributes.size or 0) + STEP_LIMIT_S
    # A board without a battery for its clock may have written it "later" than now.
    age_s = 0 if attributes.mtime is None else abs(now - attributes.mtime)
    return attributes.type == asyncssh.FILEXFER_TYPE_REGULAR and age_s > in_use_s


def _hash_limit_s(length: int) -> float:
    """Return how long the board may take to hash so many bytes."""
    return STEP_LIMIT_S + length / MIN_HASH_RATE


def _hash_of_start(path: Path, length: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for offset in range(0, length, BLOCK_BYTES):
            digest.update(file.read(min(BLOCK_BYTES, length - offset)))
    return digest.hexdigest()


async def _limit(step: Awaitable[T]) -> T:
    """Return the result of a step; a board that does not answer in time counts as not reachable.

    Raises:
        asyncio.TimeoutError: The step took longer than `STEP_LIMIT_S`.
    """
    return await asyncio.wait_for(step, STEP_LIMIT_S)


def _ignore_connection_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle exceptions of asyncssh's own tasks: those of a broken connection reach the caller anyway."""
    if not isinstance(context.get("exception"), (asyncssh.Error, OSError)):
        loop.default_exception_handler(context)


@contextmanager
def _translate_ssh_errors(name: str) -> Iterator[None]:
    """Turn errors of SSH into errors of one line."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable:
        raise InputError(
            f"the host key of {name} is unknown or differs from the known one: compare it with the board's "
            "own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the board), then add it to known_hosts"
        ) from None
    except asyncssh.PermissionDenied:
        raise InputError(
            f"{name} accepts none of your keys: name one with --identity, or start an agent that has it"
        ) from None
    except asyncssh.KeyImportError as error:
        raise InputError(f"an SSH key cannot be read ({error}): name another with --identity") from None
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        if isinstance(error, OSError) and error.filename:  # a file of the desk: --identity, --known-hosts
            raise InputError(f"cannot read {error.filename}: {error.strerror}; name another file") from None
        raise UnreachableError(
            f"cannot reach {name} ({_reason(error)}): check that it is on and accepts SSH connections"
        ) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer in {STEP_LIMIT_S:g} s"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # the text of asyncio has the number and the address instead
    return printable(str(error), MAX_REASON_CHARS) or type(error).__name__
