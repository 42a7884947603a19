"""Whether the system's clock can be gone by."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.core.run_status import Status

JUMP_S = 1.0
"""A change of the system's clock against the monotonic one that is told."""


class ClockMonitor:
    """Tells jumps of the system's clock; nothing here goes by it."""

    def __init__(self, status: Status, wall: Callable[[], float] = time.time) -> None:
        self._status, self._wall = status, wall
        self._offset_s = wall() - time.monotonic()

    def look(self) -> None:
        """Compare the system's clock with the monotonic one."""
        before, self._offset_s = self._offset_s, self._wall() - time.monotonic()
        jump = self._offset_s - before
        if abs(jump) > JUMP_S:
            self._status.report_fault(
                "clock", f"the system's clock jumped by {jump:+.1f} s; times here do not"
            )
        else:
            self._status.report_recovery("clock")
