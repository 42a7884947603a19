"""Push of a bundle from the desk to one board, which installs it.

The board makes all decisions itself (`jetson.device.install`). The desk checks first whether the bundle
fits, so that no bundle is uploaded that the board would reject.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.hardware.board import BoardFacts
from jetson.bundle.archive import open_bundle, read_bundle
from jetson.bundle.manifest import BundleManifest
from jetson.deploy.board_answer import parse_status
from jetson.device.arming_interlock import ARMED_MESSAGE
from jetson.device.board import BUSY_MESSAGE
from jetson.device.compatibility import check_compatibility
from jetson.device.slot_state import BoardState
from jetson.signing.trust import Trust

RUNTIME_BUSY_MESSAGE = "another command is installing a runtime"
"""First words of the error of `jetson/wheels/install_runtime.py` if it runs twice at the same time."""
CORRUPT_UPLOAD_MESSAGE = "the upload to"
"""First words of the error if an upload differs from the file that was sent."""
Log = Callable[[str], None]
OnProgress = Callable[[int, int], None]
"""Called with the number of bytes that were sent, and the total."""


@dataclass(frozen=True)
class CommandResult:
    """Result of a command on the board.

    Attributes:
        exit_code: Exit code of the command.
        stdout: All of its standard output.
        last_line: Last line of its standard error: the error message, if it failed.
    """

    exit_code: int
    stdout: str
    last_line: str


class PushTarget(Protocol):
    """Board that the desk can run commands on and send files to."""

    name: str

    async def run(self, arguments: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run `aerogaze device ARGUMENTS` on the board, and pass its log lines on."""

    async def send(self, path: Path, digest: str, on_progress: OnProgress) -> str:
        """Send a file of this SHA-256, and return its name on the board."""

    async def remove(self, name: str) -> None:
        """Remove a file that was sent."""

    async def close(self) -> None:
        """Close the connection."""


class UnreachableError(InputError):
    """The board cannot be reached, or the connection broke."""


def is_transient(error: Exception) -> bool:
    """Return whether the same push may succeed later without any change at the desk."""
    return isinstance(error, UnreachableError) or str(error).startswith(
        (BUSY_MESSAGE, ARMED_MESSAGE, RUNTIME_BUSY_MESSAGE, CORRUPT_UPLOAD_MESSAGE)
    )


def describe_unforeseen(error: Exception) -> str:
    """Return why a push failed by an exception that no check of the board's answers foresaw."""
    return f"its answer cannot be used ({type(error).__name__}: {str(error)[:300]}); update aerogaze on it"


@dataclass(frozen=True)
class LoadedBundle:
    """Bundle file whose content the desk has checked.

    Attributes:
        path: The file.
        manifest: Its manifest.
        digest: SHA-256 of the file.
    """

    path: Path
    manifest: BundleManifest
    digest: str


def load_bundle(path: Path, trust: Trust | None = None) -> LoadedBundle:
    """Read and check a bundle, once for all the boards that it is sent to.

    Args:
        path: The bundle file.
        trust: Keys that must have signed it; None to accept any signer.

    Raises:
        InputError: The file is not a bundle.
        CheckError: A signature or a byte is wrong, or too few of the trusted keys have signed.
    """
    with open_bundle(path) as file:
        manifest = read_bundle(file, str(path), trust).manifest
    return LoadedBundle(path, manifest, sha256(path))


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Attributes:
        trust: Keys for a board that trusts none yet.
        install_options: Options of `aerogaze device install`.
        dry_run: Only check whether the bundle fits.
        prepare_runtime: Installs aerogaze on the board if needed, and returns its version. In a dry run it
            returns the version that the board would have, or None if the board has no aerogaze to ask.
    """

    trust: Path | None = None
    install_options: tuple[str, ...] = ()
    dry_run: bool = False
    prepare_runtime: Callable[[BundleManifest], Awaitable[str | None]] | None = None


async def push_bundle(
    target: PushTarget, bundle: LoadedBundle, options: PushOptions, log: Log, on_progress: OnProgress
) -> dict[str, Any]:
    """Install a bundle on a board.

    Returns:
        The output of `aerogaze device status --json` after the install, or before it in a dry run.

    Raises:
        InputError: The board cannot be reached (`UnreachableError`), has no aerogaze, or is busy.
        CheckError: The bundle does not fit, or the board rejected or reverted it; with the board's message.
    """
    manifest = bundle.manifest
    log(
        f"{bundle.path}: {manifest.name} counter {manifest.counter}, {manifest.size_bytes} bytes, is complete"
    )
    runtime_version = await options.prepare_runtime(manifest) if options.prepare_runtime else ""
    if runtime_version is None:
        return {"schema": 1, "aerogaze": None}
    before = await _read_status(target)
    current = (
        f"flies {before['release']} counter {before['counter']}" if before["slot"] else "has no release yet"
    )
    log(f"{target.name} {current}; {before['board']['model'] or 'unknown board model'}")
    if not options.dry_run or not runtime_version:
        runtime_version = before["aerogaze"]
    _check_fit(target, bundle, options, before, runtime_version)
    if options.dry_run:
        log("the bundle would be installed; nothing was changed (dry run)")
        return before
    if not before["trusts"]:
        assert options.trust is not None
        await _send_trust(target, options.trust, log)
    name = await target.send(bundle.path, bundle.digest, on_progress)
    log("the bundle was sent, and its hash on the board is correct")
    result = await target.run(["install", name, "--json", *options.install_options], log)
    await target.remove(name)
    after = _parse_status(target, result)
    if (after["release"], after["counter"], after["state"]) != (manifest.name, manifest.counter, "good"):
        raise CheckError(
            f"{target.name} flies {after['release']} counter {after['counter']} after the install, expected "
            f"{manifest.name} counter {manifest.counter}: flash it again"
        )
    return after


async def _send_trust(target: PushTarget, trust: Path, log: Log) -> None:
    name = await target.send(trust, sha256(trust), lambda sent, total: None)
    _raise_on_failure(await target.run(["trust", name], log))
    await target.remove(name)


def _check_fit(
    target: PushTarget,
    bundle: LoadedBundle,
    options: PushOptions,
    status: dict[str, Any],
    runtime_version: str,
) -> None:
    """Check what the board would check, with a status of the board and the runtime that it will have."""
    if not status["trusts"] and options.trust is None:
        raise InputError(
            f"{target.name} trusts no key yet: name one with --trust k.pub for the first install"
        )
    if status["trusts"] and not set(status["trusts"]) & set(bundle.manifest.signers):
        raise CheckError(
            f"{target.name} trusts none of the keys that signed {bundle.path}: sign it with a trusted key"
        )
    state = replace(BoardState(), counter=status["highest_counter"])
    facts = BoardFacts(**status["board"])
    check_compatibility(bundle.manifest, facts, state, time.time(), runtime_version)


async def _read_status(target: PushTarget) -> dict[str, Any]:
    return _parse_status(target, await target.run(["status", "--json"]))


def _parse_status(target: PushTarget, result: CommandResult) -> dict[str, Any]:
    text = _raise_on_failure(result).stdout
    try:
        return parse_status(text)
    except ValueError:
        raise InputError(
            f"{target.name} has an aerogaze of another version than this desk: install the same on both"
        ) from None


def _raise_on_failure(result: CommandResult) -> CommandResult:
    """Return the result of a command that succeeded; raise the error of one that failed."""
    if result.exit_code == 1:
        raise CheckError(result.last_line)
    if result.exit_code == 2 and result.last_line:
        raise InputError(result.last_line)
    if result.exit_code:
        raise InputError(
            f"the command on the board ended with exit code {result.exit_code} "
            f"({result.last_line or 'no message'})"
        )
    return result
