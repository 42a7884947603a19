"""Control of the service that runs the release: restart after a switch, then health checks for a while."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.core.errors import CheckError, InputError
from jetson.device.time_limits import MAX_REVERT_S, TimeLimits, derive_limits


class Service(Protocol):
    """Service that runs the release of the current slot."""

    @property
    def description(self) -> str:
        """What follows a switch, as a text for the log."""

    def limited(self, start_s: float | None) -> Service:
        """Return the service with the time limits of a board.

        Args:
            start_s: Longest measured start of its releases in seconds; None if none was measured.
        """

    def restart(self, release: Path, precision: str) -> None:
        """Stop the service if it runs, and start it with this release and precision.

        Raises:
            CheckError: The service does not start.
        """

    def watch(self) -> None:
        """Check the health for the configured time, and return if it was good throughout.

        Raises:
            CheckError: The service is not healthy.
        """


class NoService:
    """No service is configured: the program that runs the slot reads the state by itself."""

    description = "no service is set: nothing is restarted or watched"

    def limited(self, start_s: float | None) -> Service:
        """Return this service: nothing is limited."""
        return self

    def restart(self, release: Path, precision: str) -> None:
        """Do nothing."""

    def watch(self) -> None:
        """Do nothing."""


NO_SERVICE = NoService()


@dataclass(frozen=True)
class CommandService:
    """Service that is restarted and checked by commands, such as those of systemd.

    The restart command gets AEROGAZE_RELEASE and AEROGAZE_PRECISION in its environment. A command fails if
    its exit code is not 0, or if it takes longer than `command_s`.

    Attributes:
        restart_command: Restarts the service.
        health_command: Exits with 0 while the service is healthy; empty for no health checks.
        watch_s: How long the health is checked after a restart. It must exceed the watchdog's time, so that
            a service that hangs after it was ready is noticed. None: `limited` derives it.
        every_s: Time between two health checks.
        command_s: Time limit of each command. None: `limited` derives it.
    """

    restart_command: tuple[str, ...]
    health_command: tuple[str, ...] = ()
    watch_s: float | None = None
    every_s: float = 0.5
    command_s: float | None = None

    def limits(self, start_s: float | None) -> TimeLimits:
        """Return the limits for a start of `start_s` seconds; limits that the owner has set stay."""
        derived = derive_limits(start_s)
        return dataclasses.replace(
            derived,
            command_s=derived.command_s if self.command_s is None else self.command_s,
            watch_s=derived.watch_s if self.watch_s is None else self.watch_s,
        )

    def limited(self, start_s: float | None) -> CommandService:
        """Return the service with its time limits for a start of `start_s` seconds."""
        limits = self.limits(start_s)
        return dataclasses.replace(self, command_s=limits.command_s, watch_s=limits.watch_s)

    @property
    def description(self) -> str:
        """What follows a switch, as a text for the log."""
        return (
            "watching the service"
            if self.health_command
            else "no health command is set: the service is not watched"
        )

    def restart(self, release: Path, precision: str) -> None:
        """Run the restart command.

        Raises:
            CheckError: The command fails.
        """
        self._run(self.restart_command, {"AEROGAZE_RELEASE": str(release), "AEROGAZE_PRECISION": precision})

    def watch(self) -> None:
        """Check the health every `every_s` for `watch_s`, by default for the shortest one.

        Raises:
            CheckError: The service is not healthy.
        """
        deadline = time.monotonic() + self.limits(None).watch_s
        while self.health_command and (remaining := deadline - time.monotonic()) > 0:
            # Wait first: the restart command itself has just reported success.
            time.sleep(min(self.every_s, remaining))
            self.check_health()

    def check_health(self) -> None:
        """Check the health once.

        Raises:
            CheckError: The service is not healthy.
        """
        self._run(self.health_command, {})

    def _run(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        text = " ".join(command)
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a service that keeps running would hold a pipe open
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"{text!r} cannot be run: {error.strerror}") from None
        limit_s = self.limits(None).command_s
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"{text!r} took longer than {limit_s:g} s") from None
        finally:
            if process.poll() is None:
                # Kill all its children as well: none may act on the board after the old release is back.
                # A command that sudo started belongs to another user and cannot be killed.
                with suppress(PermissionError, ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            raise CheckError(f"{text!r} ended with exit code {code}")


def check_revert_time(service: Service) -> None:
    """Check before a trial that a bad release would be reverted in time.

    Raises:
        InputError: The service could run it for longer than `MAX_REVERT_S`.
    """
    revert_s = service.limits(None).revert_s if isinstance(service, CommandService) else 0.0
    if revert_s > MAX_REVERT_S:
        raise InputError(
            f"by config.json a release that fails may be flown for {revert_s:g} s; "
            f"three command_s and watch_s together must be at most {MAX_REVERT_S:g}"
        )
