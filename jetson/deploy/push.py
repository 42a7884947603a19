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
from edge.hardware.board import Facts
from jetson.bundle.archive import opened, read_bundle
from jetson.bundle.manifest import Manifest
from jetson.device.arming_interlock import ARMED
from jetson.device.board import BUSY
from jetson.device.compatibility import check_fit
from jetson.device.slot_state import State
from jetson.signing.trust import Trust

READ = {
    "aerogaze", "trusts", "state", "slot", "release", "counter", "highest_counter", "precision", "why",
    "measured", "board",
}  # fmt: skip
"""What the desk reads of a board's status."""
MAKING = "another command makes a runtime"
"""As `jetson/wheels/install_runtime.py` says it on the board."""
ARRIVED = "what arrived on"
"""Begins what is said of an upload that is not what was sent."""
Say = Callable[[str], None]
OnBytes = Callable[[int, int], None]
"""Told how much of how much is there."""


@dataclass(frozen=True)
class Ended:
    """How a command on the board ended."""

    code: int
    out: str
    last: str
    """The last line that it said: what was wrong, if something was."""


class Target(Protocol):
    """A board as the desk reaches it."""

    name: str

    async def run(self, words: Sequence[str], say: Say | None = None) -> Ended:
        """Run `aerogaze device WORDS` there; its lines are passed on."""

    async def send(self, place: Path, digest: str, on_bytes: OnBytes) -> str:
        """Bring a file there, whole, and return its name there."""

    async def drop(self, name: str) -> None:
        """Remove what was sent."""

    async def close(self) -> None:
        """Let go of it."""


class LostError(InputError):
    """The board cannot be reached, or not any more."""


def may_pass(error: Exception) -> bool:
    """Say whether the same flash may go well later, with nothing changed at the desk."""
    return isinstance(error, LostError) or str(error).startswith((BUSY, ARMED, MAKING, ARRIVED))


@dataclass(frozen=True)
class Cargo:
    """A bundle that the desk has read whole. `digest`: the file's SHA-256."""

    place: Path
    manifest: Manifest
    digest: str


def load(place: Path, trusted: Trust | None = None) -> Cargo:
    """Read a bundle whole, once for all the boards that it goes to.

    Raises:
        InputError: it is none.
        CheckError: a signature or byte is wrong, or (with `trusted`) too few of its keys are trusted.
    """
    with opened(place) as file:
        manifest = read_bundle(file, str(place), trusted).manifest
    return Cargo(place, manifest, sha256(place))


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the bundle. `trust`: keys for a board that trusts none yet."""

    trust: Path | None = None
    options: tuple[str, ...] = ()
    """Of `aerogaze device install`."""
    dry_run: bool = False
    prepare: Callable[[Manifest], Awaitable[str | None]] | None = None
    """Sees that the board has an aerogaze for the bundle, and returns its version, in a dry run that which it
    would have; None: it has none, and this is a dry run."""


async def flash(target: Target, cargo: Cargo, wish: Wish, say: Say, on_bytes: OnBytes) -> dict[str, Any]:
    """Put a bundle onto a board; return what `aerogaze device status --json` says then.

    Raises:
        InputError: the board cannot be reached (`LostError`), has no aerogaze, or works on another bundle.
        CheckError: the bundle does not fit, or the board refused it or went back; in its own words.
    """
    manifest = cargo.manifest
    say(f"{cargo.place}: {manifest.name} counter {manifest.counter}, {manifest.size_bytes} bytes, whole")
    prepared = await wish.prepare(manifest) if wish.prepare else ""
    if prepared is None:
        return {"schema": 1, "aerogaze": None}
    before = await _status(target)
    flown = (
        f"flies {before['release']} counter {before['counter']}" if before["slot"] else "flies nothing yet"
    )
    say(f"{target.name} {flown}; {before['board']['model'] or 'no known board'}")
    _check(target, cargo, wish, before, prepared if wish.dry_run and prepared else before["aerogaze"])
    if wish.dry_run:
        say("it would be installed; nothing was done (dry run)")
        return before
    if not before["trusts"]:
        assert wish.trust is not None
        place = await target.send(wish.trust, sha256(wish.trust), lambda done, of: None)
        _ok(await target.run(["trust", place], say))
        await target.drop(place)
    name = await target.send(cargo.place, cargo.digest, on_bytes)
    say("sent, and its hash is right there")
    done = await target.run(["install", name, "--json", *wish.options], say)
    await target.drop(name)
    after = _told(target, done)
    if (after["release"], after["counter"], after["state"]) != (manifest.name, manifest.counter, "good"):
        raise CheckError(
            f"{target.name} flies {after['release']} counter {after['counter']}, which is not what was sent: "
            "flash it again"
        )
    return after


def _check(target: Target, cargo: Cargo, wish: Wish, before: dict[str, Any], aerogaze: str) -> None:
    if not before["trusts"] and wish.trust is None:
        raise InputError(f"{target.name} trusts no key yet: flash it the first time with --trust k.pub")
    if before["trusts"] and not set(before["trusts"]) & set(cargo.manifest.signers):
        raise CheckError(
            f"{target.name} trusts none of the keys that signed {cargo.place}: sign it with others"
        )
    state = replace(State(), counter=before["highest_counter"])
    check_fit(cargo.manifest, Facts(**before["board"]), state, time.time(), aerogaze)


async def _status(target: Target) -> dict[str, Any]:
    return _told(target, await target.run(["status", "--json"]))


def _told(target: Target, done: Ended) -> dict[str, Any]:
    try:
        document = json.loads(_ok(done).out)
        if document["schema"] == 1 and set(document) >= READ and _typed(document):
            Facts(**document["board"])
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


def _ok(done: Ended) -> Ended:
    if done.code == 1:
        raise CheckError(done.last)
    if done.code == 2 and done.last:
        raise InputError(done.last)
    if done.code:
        raise InputError(
            f"the command on the board ended with exit code {done.code} ({done.last or 'said nothing'})"
        )
    return done


async def said(lines: AsyncIterable[str | bytes], say: Say | None) -> str:
    """Pass each line on but the one that says what was wrong; return the last one."""
    last = ""
    async for line in lines:
        told = (line if isinstance(line, str) else line.decode(errors="replace")).strip()
        if not told:
            continue
        last = told
        if last.startswith("aerogaze: "):
            last = last.removeprefix("aerogaze: ")
        elif say is not None:
            say(last)
    return last
