"""Control of the service that runs the release: restart after a switch, then health checks for a while."""

from __future__ import annotations

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

MAX_REVERT_S = 30.0
"""Longest time that a release which does not stay healthy may be flown."""


class Service(Protocol):
    """Service that runs the release of the current slot."""

    @property
    def description(self) -> str:
        """What follows a switch, as a text for the log."""

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
        watch_s: How long the health is checked after a restart. It must exceed WatchdogSec of the systemd
            unit, so that a service that hangs after it was ready is noticed.
        every_s: Time between two health checks.
        command_s: Time limit of each command.
    """

    restart_command: tuple[str, ...]
    health_command: tuple[str, ...] = ()
    watch_s: float = 8.0
    every_s: float = 0.5
    command_s: float = 7.0

    @property
    def max_revert_s(self) -> float:
        """Longest time from a switch to the old release: restart, watch, last health check, restart."""
        return 3 * self.command_s + self.watch_s

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
        """Check the health every `every_s` for `watch_s`.

        Raises:
            CheckError: The service is not healthy.
        """
        deadline = time.monotonic() + self.watch_s
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
        try:
            code = process.wait(self.command_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"{text!r} took longer than {self.command_s:g} s") from None
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
    if isinstance(service, CommandService) and service.max_revert_s > MAX_REVERT_S:
        raise InputError(
            f"by config.json a release that fails may be flown for {service.max_revert_s:g} s; "
            f"three command_s and watch_s together must be at most {MAX_REVERT_S:g}"
        )
