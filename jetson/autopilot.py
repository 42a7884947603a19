"""The interlock: nothing is installed or switched while the autopilot says that it is armed."""

from __future__ import annotations

from typing import Protocol

from edge.errors import InputError


class Autopilot(Protocol):
    """Whom to ask before the board is touched."""

    def check(self) -> None:
        """Return if the vehicle is disarmed.

        Raises:
            CheckError: it is armed.
            InputError: nobody can tell.
        """


class NoAutopilot:
    """There is none to ask, and somebody has said so."""

    def check(self) -> None:
        """Do nothing."""


class UnknownAutopilot:
    """None is named, and nobody has said that there is none."""

    def check(self) -> None:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            "no autopilot is named, so nobody can tell whether the drone is armed; name its link with "
            "--autopilot udpin:0.0.0.0:14550, or say --no-autopilot"
        )
