"""The service that flies the release: restarted after a switch, and watched for a while."""

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


class Service(Protocol):
    """What runs the current slot."""

    @property
    def told(self) -> str:
        """What is done after a switch, in words."""

    def restart(self, release: Path, precision: str) -> None:
        """Stop it if it runs, and start it with what is flown now.

        Raises:
            CheckError: it does not start.
        """

    def watch(self) -> None:
        """Return when it has been healthy for as long as was asked.

        Raises:
            CheckError: it is not.
        """


class NoService:
    """Nothing is configured: who flies the slot looks at the state by itself."""

    told = "no service is set: nothing is restarted or watched"

    def restart(self, release: Path, precision: str) -> None:
        """Do nothing."""

    def watch(self) -> None:
        """Do nothing."""


NO_SERVICE = NoService()


MAX_REVERT_S = 30.0
"""A release that does not stay healthy is flown no longer than this."""


@dataclass(frozen=True)
class CommandService:
    """A service restarted and asked for its health by commands, as systemd's are.

    Commands get AEROGAZE_RELEASE and AEROGAZE_PRECISION; they fail by their exit code, or by taking longer
    than `command_s`. `health` is asked every `every_s` for `watch_s`, which is longer than the unit's
    WatchdogSec: one that hangs once it was ready is seen. Back on the old release takes `max_revert_s` at most.
    """

    restart_command: tuple[str, ...]
    health_command: tuple[str, ...] = ()
    watch_s: float = 8.0
    every_s: float = 0.5
    command_s: float = 7.0

    @property
    def max_revert_s(self) -> float:
        """How long from a switch to the old release at most: restart, watch, a last question, restart."""
        return 3 * self.command_s + self.watch_s

    @property
    def told(self) -> str:
        """What is done after a switch, in words."""
        return (
            "watching the service" if self.health_command else "no health is set: the service is not watched"
        )

    def restart(self, release: Path, precision: str) -> None:
        """Run the command that restarts."""
        self._run(self.restart_command, {"AEROGAZE_RELEASE": str(release), "AEROGAZE_PRECISION": precision})

    def watch(self) -> None:
        """Ask for health until the time is over."""
        end = time.monotonic() + self.watch_s
        while self.health_command and (left := end - time.monotonic()) > 0:
            time.sleep(min(self.every_s, left))
            self.check()

    def check(self) -> None:
        """Ask for health once.

        Raises:
            CheckError: it is not healthy.
        """
        self._run(self.health_command, {})

    def _run(self, words: tuple[str, ...], more: Mapping[str, str]) -> None:
        told = " ".join(words)
        try:
            process = subprocess.Popen(
                words,
                env={**os.environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a service left running must not hold our pipes
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"{told!r} cannot be run: {error.strerror}") from None
        try:
            code = process.wait(self.command_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"{told!r} took longer than {self.command_s:g} s") from None
        finally:
            if process.poll() is None:  # with all that it started, lest it goes on after we went back
                with suppress(PermissionError, ProcessLookupError):  # by sudo it is another's
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            raise CheckError(f"{told!r} ended with exit code {code}")


def check_revert_time(service: Service) -> None:
    """See, before a release is tried, that a bad one would be gone in time.

    Raises:
        InputError: it might be flown for longer than `MAX_REVERT_S`.
    """
    if isinstance(service, CommandService) and service.max_revert_s > MAX_REVERT_S:
        raise InputError(
            f"by config.json a release that fails may be flown for {service.max_revert_s:g} s; three command_s "
            f"and watch_s together must be at most {MAX_REVERT_S:g}"
        )
