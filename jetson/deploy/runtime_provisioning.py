"""The runtime of a board, from the desk: seen to be there, else carried there as wheels and made."""

from __future__ import annotations

import asyncio
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from jetson.bundle.manifest import BundleManifest, version_key
from jetson.deploy.push import CommandResult, Log, OnProgress
from jetson.wheels.target_platform import TargetPlatform, parse_platform
from jetson.wheels.wheel_set import INSTALLER, WheelSet, collect_wheels, temporary_requirements

COMMAND = "/opt/aerogaze/bin/aerogaze"
PYTHON = "$(command -v /usr/bin/python3 || command -v python3)"
"""The system's Python first: TensorRT is installed for that one."""
WHEELS = "wheels"
_GATHERER = ThreadPoolExecutor(1)
"""Many boards at once want the same set: one gathers it, and none holds up a connection."""

RuntimePolicy = Literal["needed", "always", "never"]


class ShellTarget(Protocol):
    """What is asked of a board that may have no aerogaze yet."""

    name: str
    program: str

    async def shell(self, script: str, log: Log | None = None, sudo: bool = False) -> CommandResult:
        """Run a script by its sh."""

    async def send(self, place: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        """Bring a file there, whole, and return its name there."""


@dataclass(frozen=True)
class RuntimeProvisioner:
    """Which runtime a board is to have, and where.

    `command`: the board's aerogaze, as PLACE/bin/aerogaze; None: the one of /opt/aerogaze, else the one on
    its path. `when`: needed, if none is there or the bundle asks for a newer one; always, if it is not
    already the one carried; never. `questions`: options of `aerogaze device disarmed`.
    """

    when: RuntimePolicy = "needed"
    command: str | None = None
    questions: tuple[str, ...] = ()

    async def ensure(
        self, board: ShellTarget, manifest: BundleManifest, dry_run: bool, log: Log, on_progress: OnProgress
    ) -> str | None:
        """See that the board has a runtime for a bundle; return its version, in a dry run that which it would
        have. None: a dry run found that it has none to ask.

        Raises:
            InputError: the wheels cannot be had or installed, or no Python is there.
            CheckError: this aerogaze is too old for the bundle itself, or the autopilot says armed.
        """
        found, has = await self._find(board)
        board.program = found or self.command or "aerogaze"
        old = has is None or version_key(has) < version_key(manifest.runtime)
        if self.when == "never" or (self.when == "needed" and not old):
            return has or version("aerogaze")
        place = self._place()
        if place is None:
            if self.when == "always":
                raise InputError(
                    f"no runtime can be put at {self.command}: expected --aerogaze PLACE/bin/aerogaze"
                )
            return has or version("aerogaze")  # what is wrong with the one that was named is for it to say
        if version_key(version("aerogaze")) < version_key(manifest.runtime):
            raise CheckError(
                f"the bundle needs aerogaze {manifest.runtime}, the desk has {version('aerogaze')}: update it"
            )
        log(f"{board.name} has " + (f"aerogaze {has}" if has else "no aerogaze yet"))
        machine, there = await _probe(board, place)
        carried = await asyncio.get_running_loop().run_in_executor(_GATHERER, collect_wheels, machine, log)
        board.program = f"{place}/bin/aerogaze"
        if carried.id == there and has:
            log("its runtime is the one that would be carried")
            return has
        if dry_run:
            log(
                f"it would get {carried}, at {place}: "
                + ", ".join(f"{w.name} {w.version}" for w in carried.wheels)
            )
            if not has:
                log("whether the bundle fits is known then; nothing was done (dry run)")
            board.program = found or board.program
            return version("aerogaze") if has else None
        log(f"sending {carried}")
        await _send(board, carried, on_progress)
        setup = await board.send(
            INSTALLER, sha256(INSTALLER), lambda done, of: None, f"{WHEELS}/{INSTALLER.name}"
        )
        done = await board.shell(
            f"exec {PYTHON} {shlex.join([setup, place, '--', *self.questions])}", log, sudo=True
        )
        if done.code:
            raise (CheckError if done.code == 1 else InputError)(done.last)
        log(f"aerogaze {version('aerogaze')} is there, at {place}")
        return version("aerogaze")

    def _place(self) -> str | None:
        path = PurePosixPath(self.command or COMMAND)
        return (
            str(path.parent.parent) if path.is_absolute() and path.parts[-2:] == ("bin", "aerogaze") else None
        )

    async def _find(self, board: ShellTarget) -> tuple[str | None, str | None]:
        """Return the command there, and its version if it starts."""
        names = [self.command] if self.command else [COMMAND, "aerogaze"]
        tries = " || ".join(f"command -v {shlex.quote(name)}" for name in names)
        told = await board.shell(f'p=$({tries}) || exit 0; echo "$p"; "$p" --version 2>/dev/null || true')
        lines = told.out.splitlines()
        found = lines[0] if lines else None
        name, _, has = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
        return found, has if name == "aerogaze" and has else None


async def _probe(board: ShellTarget, place: str) -> tuple[TargetPlatform, str | None]:
    """Ask by a script that is part of the command: nothing is written there."""
    words = ["-c", INSTALLER.read_text("utf-8"), "--probe", place]
    done = await board.shell(f"exec {PYTHON} {shlex.join(words)}")
    try:
        told = json.loads(done.out)
        machine, there = str(told["machine"]), told["runtime"]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{board.name} has no Python 3 that starts ({done.last or 'it says nothing'}): "
            "expected /usr/bin/python3, as JetPack 6 and 7 have it"
        ) from None
    return parse_platform(machine), there


async def _send(board: ShellTarget, carried: WheelSet, on_progress: OnProgress) -> None:
    """Send what is not there already, and remove the wheels of sets before this one."""
    with temporary_requirements(carried) as requirements:
        files = [*(wheel.path for wheel in carried.wheels), requirements]
        total, before, name = sum(path.stat().st_size for path in files), 0, ""
        for path in files:

            def tell(done: int, of: int, before: int = before) -> None:
                on_progress(before + done, total)

            name = await board.send(path, sha256(path), tell, f"{WHEELS}/{path.name}")
            before += path.stat().st_size
    folder = shlex.quote(str(PurePosixPath(name).parent))
    there = (await board.shell(f"cd {folder} && ls")).out.split("\n")
    kept = {path.name for path in files}
    old = [name for name in there if name.endswith(".whl") and name not in kept]
    if old:
        await board.shell(f"cd {folder} && rm -f -- {shlex.join(old)}")
