"""From the desk to a board: carry a bundle there, and have the board install it.

The board decides everything itself (`jetson.install`); the desk asks first whether it would fit, so that
nobody waits for an upload that is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge.board import Facts
from edge.errors import CheckError, InputError
from edge.files import sha256
from jetson.bundle import opened, read_bundle
from jetson.fit import check_fit
from jetson.manifest import Manifest
from jetson.state import State
from jetson.trust import Trust

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


@dataclass(frozen=True)
class Flash:
    """What to carry, and what else is asked for. `trust`: keys for a board that trusts none yet."""

    bundle: Path
    trust: Path | None = None
    options: tuple[str, ...] = ()
    """Of `aerogaze device install`."""
    dry_run: bool = False
    prepare: Callable[[Manifest], Awaitable[bool]] | None = None
    """Sees that the board has an aerogaze for the bundle; False: it has none, and this is a dry run."""


async def flash(
    target: Target, wish: Flash, trusted: Trust | None, say: Say, on_bytes: OnBytes
) -> dict[str, Any]:
    """Put a bundle onto a board; return what `aerogaze device status --json` says then.

    Raises:
        InputError: the bundle is none, or the board cannot be reached or has no aerogaze.
        CheckError: the bundle does not fit, or the board refused it or went back; in its own words.
    """
    with opened(wish.bundle) as file:
        manifest = read_bundle(file, str(wish.bundle), trusted).manifest
    say(f"{wish.bundle}: {manifest.name} counter {manifest.counter}, {manifest.size_bytes} bytes, whole")
    if wish.prepare is not None and not await wish.prepare(manifest):
        return {"schema": 1, "aerogaze": None}
    before = await _status(target)
    flown = (
        f"flies {before['release']} counter {before['counter']}" if before["slot"] else "flies nothing yet"
    )
    say(f"{target.name} {flown}; {before['board']['model'] or 'no known board'}")
    _check(target, wish, manifest, before)
    if wish.dry_run:
        say("it would be installed; nothing was done (dry run)")
        return before
    if not before["trusts"]:
        assert wish.trust is not None
        place = await target.send(wish.trust, sha256(wish.trust), lambda done, of: None)
        _ok(await target.run(["trust", place], say))
        await target.drop(place)
    name = await target.send(wish.bundle, sha256(wish.bundle), on_bytes)
    say("sent, and its hash is right there")
    done = await target.run(["install", name, "--json", *wish.options], say)
    await target.drop(name)
    after: dict[str, Any] = json.loads(_ok(done).out)
    return after


def _check(target: Target, wish: Flash, manifest: Manifest, before: dict[str, Any]) -> None:
    if not before["trusts"] and wish.trust is None:
        raise InputError(f"{target.name} trusts no key yet: flash it the first time with --trust k.pub")
    if before["trusts"] and not set(before["trusts"]) & set(manifest.signers):
        raise CheckError(
            f"{target.name} trusts none of the keys that signed {wish.bundle}: sign it with others"
        )
    state = replace(State(), counter=before["highest_counter"])
    check_fit(manifest, Facts(**before["board"]), state, time.time(), before["aerogaze"])


async def _status(target: Target) -> dict[str, Any]:
    done = _ok(await target.run(["status", "--json"]))
    try:
        document = json.loads(done.out)
        if isinstance(document, dict) and document["schema"] == 1:
            return document
    except (ValueError, KeyError):
        pass
    raise InputError(f"{target.name} has an aerogaze of another version: bring both to the same one")


def _ok(done: Ended) -> Ended:
    if done.code == 1:
        raise CheckError(done.last)
    if done.code:
        raise InputError(done.last or f"the command on the board ended with exit code {done.code}")
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
