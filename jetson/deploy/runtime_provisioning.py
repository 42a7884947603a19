"""Provisioning of a board's runtime from the desk: checks it, and installs it from wheels if needed."""

from __future__ import annotations

import asyncio
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from jetson.bundle.manifest import BundleManifest, version_key
from jetson.deploy.board_answer import is_short_text, is_version, parse_json
from jetson.deploy.push import CommandResult, Log, OnProgress
from jetson.wheels.target_platform import TargetPlatform, parse_platform
from jetson.wheels.wheel_set import INSTALLER, WheelSet, collect_wheels, temporary_requirements

DEFAULT_COMMAND = "/opt/aerogaze/bin/aerogaze"
FIND_PYTHON = "$(command -v /usr/bin/python3 || command -v python3)"
"""Shell expression for the board's Python. The system's comes first: TensorRT is installed for that one."""
WHEEL_FOLDER = "wheels"
INSTALL_LIMIT_S = 3600.0
"""Longest time that a board takes to install the wheels and to try them."""
MAX_PATH_CHARS = 4096
# Many boards need the same wheels at the same time. One thread collects them, so that pip runs once and the
# event loop keeps serving the other connections.
_WHEEL_EXECUTOR = ThreadPoolExecutor(1)

ProvisioningPolicy = Literal["needed", "always", "never"]


class ShellTarget(Protocol):
    """Board that may have no aerogaze yet, but a shell."""

    name: str
    program: str

    async def shell(
        self, script: str, log: Log | None = None, sudo: bool = False, limit_s: float | None = None
    ) -> CommandResult:
        """Run a script with the board's sh, for at most so many seconds; None for a quick one."""

    async def send(self, path: Path, digest: str, on_progress: OnProgress, name: str | None = None) -> str:
        """Send a file of this SHA-256, and return its name on the board."""


@dataclass(frozen=True)
class RuntimeProvisioner:
    """Makes sure that a board has an aerogaze.

    Attributes:
        policy: "needed" installs aerogaze if the board has none or an older one than the bundle requires;
            "always" also if it is not the same as the one of this desk; "never" does not install it.
        command: The board's aerogaze, as PLACE/bin/aerogaze; None for the one in /opt/aerogaze, else the one
            in PATH.
        disarm_options: Options of `aerogaze device disarmed`, which is asked before a runtime is replaced.
    """

    policy: ProvisioningPolicy = "needed"
    command: str | None = None
    disarm_options: tuple[str, ...] = ()

    async def ensure(
        self, board: ShellTarget, manifest: BundleManifest, dry_run: bool, log: Log, on_progress: OnProgress
    ) -> str | None:
        """Install a runtime for a bundle if the board needs one, and set `board.program` to it.

        Returns:
            Version of the board's aerogaze. In a dry run, the version that the board would have, or None if
            the board has no aerogaze to ask.

        Raises:
            InputError: The wheels cannot be collected or installed, or the board has no Python 3.
            CheckError: The desk's aerogaze is too old for the bundle, or the autopilot reports armed.
        """
        own_version = version_of("aerogaze")
        current_command, current_version = await self._find_runtime(board)
        board.program = current_command or self.command or "aerogaze"
        is_old = current_version is None or version_key(current_version) < version_key(manifest.runtime)
        if self.policy == "never" or (self.policy == "needed" and not is_old):
            return current_version or own_version
        folder = self._runtime_folder()
        if folder is None:
            if self.policy == "always":
                raise InputError(
                    f"no runtime can be installed at {self.command}: expected --aerogaze PLACE/bin/aerogaze"
                )
            return current_version or own_version  # the named command will report what is wrong with it
        if version_key(own_version) < version_key(manifest.runtime):
            raise CheckError(
                f"the bundle needs aerogaze {manifest.runtime}, but this desk has {own_version}: update it"
            )
        log(f"{board.name} has " + (f"aerogaze {current_version}" if current_version else "no aerogaze yet"))
        platform, current_id = await _probe(board, folder)
        loop = asyncio.get_running_loop()
        wheel_set = await loop.run_in_executor(_WHEEL_EXECUTOR, collect_wheels, platform, log)
        board.program = f"{folder}/bin/aerogaze"
        if wheel_set.id == current_id and current_version:
            log("the board has this runtime already")
            return current_version
        if dry_run:
            _log_dry_run(wheel_set, folder, current_version is not None, log)
            board.program = current_command or board.program
            return own_version if current_version else None
        await self._install(board, wheel_set, folder, log, on_progress)
        log(f"aerogaze {own_version} is installed at {folder}")
        return own_version

    async def _install(
        self, board: ShellTarget, wheel_set: WheelSet, folder: str, log: Log, on_progress: OnProgress
    ) -> None:
        log(f"sending {wheel_set}")
        await _send_wheels(board, wheel_set, on_progress)
        installer = await board.send(
            INSTALLER, sha256(INSTALLER), lambda sent, total: None, f"{WHEEL_FOLDER}/{INSTALLER.name}"
        )
        script = f"exec {FIND_PYTHON} {shlex.join([installer, folder, '--', *self.disarm_options])}"
        result = await board.shell(script, log, sudo=True, limit_s=INSTALL_LIMIT_S)
        if result.exit_code:
            raise (CheckError if result.exit_code == 1 else InputError)(result.last_line)

    def _runtime_folder(self) -> str | None:
        """Return the folder of the runtime on the board; None if the command is not PLACE/bin/aerogaze."""
        path = PurePosixPath(self.command or DEFAULT_COMMAND)
        is_in_runtime = path.is_absolute() and path.parts[-2:] == ("bin", "aerogaze")
        return str(path.parent.parent) if is_in_runtime else None

    async def _find_runtime(self, board: ShellTarget) -> tuple[str | None, str | None]:
        """Return the command on the board, and its version; each None if there is none or it fails."""
        commands = [self.command] if self.command else [DEFAULT_COMMAND, "aerogaze"]
        lookups = " || ".join(f"command -v {shlex.quote(command)}" for command in commands)
        result = await board.shell(f'p=$({lookups}) || exit 0; echo "$p"; "$p" --version 2>/dev/null || true')
        lines = result.stdout.splitlines()
        # The path is shown and run: one that a board could not have is not taken from it.
        command = lines[0] if lines and lines[0].isprintable() and len(lines[0]) < MAX_PATH_CHARS else None
        name, _, version = lines[1].partition(" ") if len(lines) > 1 else ("", "", "")
        return command, version if name == "aerogaze" and is_version(version) else None


def _log_dry_run(wheel_set: WheelSet, folder: str, has_runtime: bool, log: Log) -> None:
    packages = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheel_set.wheels)
    log(f"the board would get {wheel_set}, at {folder}: {packages}")
    if not has_runtime:
        log("the bundle can be checked after that; nothing was changed (dry run)")


async def _probe(board: ShellTarget, folder: str) -> tuple[TargetPlatform, str | None]:
    """Return the board's platform and the id of the runtime in a folder; None if there is none.

    The script is passed on the command line, so that nothing is written on the board.
    """
    arguments = ["-c", INSTALLER.read_text("utf-8"), "--probe", folder]
    result = await board.shell(f"exec {FIND_PYTHON} {shlex.join(arguments)}")
    try:
        answer = parse_json(result.stdout)
        platform, runtime_id = answer["machine"], answer["runtime"]
        if not is_short_text(platform) or not (runtime_id is None or is_short_text(runtime_id)):
            raise ValueError("machine or runtime")
    except (ValueError, KeyError):
        raise InputError(
            f"{board.name} has no working Python 3 ({result.last_line or 'no message'}): "
            "expected /usr/bin/python3, as on JetPack 6 and 7"
        ) from None
    return parse_platform(platform), runtime_id


async def _send_wheels(board: ShellTarget, wheel_set: WheelSet, on_progress: OnProgress) -> None:
    """Send the wheels that the board does not have yet, and remove those of earlier sets."""
    with temporary_requirements(wheel_set) as requirements:
        files = [*(wheel.path for wheel in wheel_set.wheels), requirements]
        total_bytes = sum(path.stat().st_size for path in files)
        bytes_before, name = 0, ""
        for path in files:

            def add_bytes_before(sent: int, total: int, bytes_before: int = bytes_before) -> None:
                on_progress(bytes_before + sent, total_bytes)

            name = await board.send(path, sha256(path), add_bytes_before, f"{WHEEL_FOLDER}/{path.name}")
            bytes_before += path.stat().st_size
    folder = shlex.quote(str(PurePosixPath(name).parent))
    names = (await board.shell(f"cd {folder} && ls")).stdout.split("\n")
    needed = {path.name for path in files}
    old = [name for name in names if name.endswith(".whl") and name not in needed]
    if old:
        await board.shell(f"cd {folder} && rm -f -- {shlex.join(old)}")
