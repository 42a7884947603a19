"""Monitor for jumps of the system clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.core.run_status import Status

MIN_JUMP_S = 1.0
"""Smallest change of the system clock against the monotonic clock that is reported."""


class ClockMonitor:
    """Reports jumps of the system clock as faults of kind "clock".

    The pipeline itself uses the monotonic clock only. The report explains time stamps in other programs.

    Args:
        status: Gets the faults.
        system_clock: System time in seconds.
    """

    def __init__(self, status: Status, system_clock: Callable[[], float] = time.time) -> None:
        self._status, self._system_clock = status, system_clock
        self._offset_s = system_clock() - time.monotonic()

    def check(self) -> None:
        """Compare the system clock with the monotonic clock."""
        previous_s, self._offset_s = self._offset_s, self._system_clock() - time.monotonic()
        jump_s = self._offset_s - previous_s
        if abs(jump_s) > MIN_JUMP_S:
            self._status.report_fault(
                "clock", f"the system clock jumped by {jump_s:+.1f} s; times of this run are not affected"
            )
        else:
            self._status.report_recovery("clock")
