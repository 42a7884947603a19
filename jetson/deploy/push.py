"""From the desk to a board: carry a bundle there, and have the board install it.

The board decides everything itself (`jetson.device.install`); the desk asks first whether it would fit, so
that
nobody waits for an upload that is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.hardware.board import BoardFacts
from jetson.bundle.archive import open_bundle, read_bundle
from jetson.bundle.manifest import BundleManifest
from jetson.device.arming_interlock import ARMED_MESSAGE
from jetson.device.board import BUSY_MESSAGE
from jetson.device.compatibility import check_compatibility
from jetson.device.slot_state import BoardState
from jetson.signing.trust import Trust

REQUIRED_STATUS_KEYS = {
    "aerogaze", "trusts", "state", "slot", "release", "counter", "highest_counter", "precision", "why",
    "measured", "board",
}  # fmt: skip
"""What the desk reads of a board's status."""
RUNTIME_BUSY_MESSAGE = "another command makes a runtime"
"""As `jetson/wheels/install_runtime.py` says it on the board."""
CORRUPT_UPLOAD_MESSAGE = "what arrived on"
"""Begins what is said of an upload that is not what was sent."""
Log = Callable[[str], None]
OnProgress = Callable[[int, int], None]
"""Told how much of how much is there."""


@dataclass(frozen=True)
class CommandResult:
    """How a command on the board ended."""

    code: int
    out: str
    last: str
    """The last line that it said: what was wrong, if something was."""


class PushTarget(Protocol):
    """A board as the desk reaches it."""

    name: str

    async def run(self, words: Sequence[str], log: Log | None = None) -> CommandResult:
        """Run `aerogaze device WORDS` there; its lines are passed on."""

    async def send(self, place: Path, digest: str, on_progress: OnProgress) -> str:
        """Bring a file there, whole, and return its name there."""

    async def remove(self, name: str) -> None:
        """Remove what was sent."""

    async def close(self) -> None:
        """Let go of it."""


class UnreachableError(InputError):
    """The board cannot be reached, or not any more."""


def is_transient(error: Exception) -> bool:
    """Say whether the same flash may go well later, with nothing changed at the desk."""
    return isinstance(error, UnreachableError) or str(error).startswith(
        (BUSY_MESSAGE, ARMED_MESSAGE, RUNTIME_BUSY_MESSAGE, CORRUPT_UPLOAD_MESSAGE)
    )


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle that the desk has read whole. `digest`: the file's SHA-256."""

    place: Path
    manifest: BundleManifest
    digest: str


def load_bundle(place: Path, trusted: Trust | None = None) -> LoadedBundle:
    """Read a bundle whole, once for all the boards that it goes to.

    Raises:
        InputError: it is none.
        CheckError: a signature or byte is wrong, or (with `trusted`) too few of its keys are trusted.
    """
    with open_bundle(place) as file:
        manifest = read_bundle(file, str(place), trusted).manifest
    return LoadedBundle(place, manifest, sha256(place))


@dataclass(frozen=True)
class PushOptions:
    """What is asked for beside the bundle. `trust`: keys for a board that trusts none yet."""

    trust: Path | None = None
    options: tuple[str, ...] = ()
    """Of `aerogaze device install`."""
    dry_run: bool = False
    prepare: Callable[[BundleManifest], Awaitable[str | None]] | None = None
    """Sees that the board has an aerogaze for the bundle, and returns its version, in a dry run that which it
    would have; None: it has none, and this is a dry run."""


async def push_bundle(
    target: PushTarget, cargo: LoadedBundle, wish: PushOptions, log: Log, on_progress: OnProgress
) -> dict[str, Any]:
    """Put a bundle onto a board; return what `aerogaze device status --json` says then.

    Raises:
        InputError: the board cannot be reached (`UnreachableError`), has no aerogaze, or works on another bundle.
        CheckError: the bundle does not fit, or the board refused it or went back; in its own words.
    """
    manifest = cargo.manifest
    log(f"{cargo.place}: {manifest.name} counter {manifest.counter}, {manifest.size_bytes} bytes, whole")
    prepared = await wish.prepare(manifest) if wish.prepare else ""
    if prepared is None:
        return {"schema": 1, "aerogaze": None}
    before = await _status(target)
    flown = (
        f"flies {before['release']} counter {before['counter']}" if before["slot"] else "flies nothing yet"
    )
    log(f"{target.name} {flown}; {before['board']['model'] or 'no known board'}")
    _check(target, cargo, wish, before, prepared if wish.dry_run and prepared else before["aerogaze"])
    if wish.dry_run:
        log("it would be installed; nothing was done (dry run)")
        return before
    if not before["trusts"]:
        assert wish.trust is not None
        place = await target.send(wish.trust, sha256(wish.trust), lambda done, of: None)
        _ok(await target.run(["trust", place], log))
        await target.remove(place)
    name = await target.send(cargo.place, cargo.digest, on_progress)
    log("sent, and its hash is right there")
    done = await target.run(["install", name, "--json", *wish.options], log)
    await target.remove(name)
    after = _told(target, done)
    if (after["release"], after["counter"], after["state"]) != (manifest.name, manifest.counter, "good"):
        raise CheckError(
            f"{target.name} flies {after['release']} counter {after['counter']}, which is not what was sent: "
            "flash it again"
        )
    return after


def _check(
    target: PushTarget, cargo: LoadedBundle, wish: PushOptions, before: dict[str, Any], aerogaze: str
) -> None:
    if not before["trusts"] and wish.trust is None:
        raise InputError(f"{target.name} trusts no key yet: flash it the first time with --trust k.pub")
    if before["trusts"] and not set(before["trusts"]) & set(cargo.manifest.signers):
        raise CheckError(
            f"{target.name} trusts none of the keys that signed {cargo.place}: sign it with others"
        )
    state = replace(BoardState(), counter=before["highest_counter"])
    check_compatibility(cargo.manifest, BoardFacts(**before["board"]), state, time.time(), aerogaze)


async def _status(target: PushTarget) -> dict[str, Any]:
    return _told(target, await target.run(["status", "--json"]))


def _told(target: PushTarget, done: CommandResult) -> dict[str, Any]:
    try:
        document = json.loads(_ok(done).out)
        if document["schema"] == 1 and set(document) >= REQUIRED_STATUS_KEYS and _typed(document):
            BoardFacts(**document["board"])
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{target.name} has an aerogaze of another version: bring both to the same one")


def _typed(document: dict[str, Any]) -> bool:
    trusts = document["trusts"]
    return (
        isinstance(document["aerogaze"], str)
        and isinstance(document["highest_counter"], int)
        and isinstance(trusts, list)
        and all(isinstance(key, str) for key in trusts)
    )


def _ok(done: CommandResult) -> CommandResult:
    if done.code == 1:
        raise CheckError(done.last)
    if done.code == 2 and done.last:
        raise InputError(done.last)
    if done.code:
        raise InputError(
            f"the command on the board ended with exit code {done.code} ({done.last or 'forward_lines nothing'})"
        )
    return done


async def forward_lines(lines: AsyncIterable[str | bytes], log: Log | None) -> str:
    """Pass each line on but the one that says what was wrong; return the last one."""
    last = ""
    async for line in lines:
        told = (line if isinstance(line, str) else line.decode(errors="replace")).strip()
        if not told:
            continue
        last = told
        if last.startswith("aerogaze: "):
            last = last.removeprefix("aerogaze: ")
        elif log is not None:
            log(last)
    return last
