"""Time limits of a board's service, derived from the start that the trial of a release measures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import CheckError
from jetson.device.slot_state import Slot

START_FACTOR = 3.0
"""A command of the service may take so many times the measured start: the service also runs `device boot` and
`device exec`, and its camera and other programs of the board take time."""
MIN_COMMAND_S, MAX_COMMAND_S = 7.0, 60.0
MIN_WATCHDOG_S, MAX_WATCHDOG_S = 6.0, 28.0
WATCH_MARGIN_S = 2.0
"""The watch exceeds the watchdog, so that a service that hangs after its start is noticed."""
MAX_REVERT_S = 3 * MAX_COMMAND_S + MAX_WATCHDOG_S + WATCH_MARGIN_S
"""Longest time that a release which does not stay healthy may be flown, on the slowest board."""
START_SOURCE = "synthetic:7:64x64:1"


@dataclass(frozen=True)
class TimeLimits:
    """Time limits of a service in seconds.

    Attributes:
        command_s: For each restart and each health check.
        watchdog_s: For a service that gives no sign of life.
        watch_s: How long the health is checked after a restart.
    """

    command_s: float
    watchdog_s: float
    watch_s: float

    @property
    def revert_s(self) -> float:
        """Longest time from a switch to the old release: restart, watch, last health check, restart."""
        return 3 * self.command_s + self.watch_s


def derive_limits(start_s: float | None) -> TimeLimits:
    """Return the limits of a board, given its longest measured start in seconds; None if it has none."""
    start_s = start_s or 0.0
    watchdog_s = min(max(MIN_WATCHDOG_S, start_s), MAX_WATCHDOG_S)
    command_s = min(max(MIN_COMMAND_S, START_FACTOR * start_s), MAX_COMMAND_S)
    return TimeLimits(round(command_s, 1), round(watchdog_s, 1), round(watchdog_s + WATCH_MARGIN_S, 1))


def longest_start_s(slots: Iterable[Slot]) -> float | None:
    """Return the longest measured start of the releases in some slots; None if none was measured."""
    starts = [row["start_s"] for slot in slots for row in slot.measured if row.get("start_s")]
    return max(starts, default=None)


def measure_start(release: Path, precision: str, engine: str) -> float:
    """Return the seconds from the start of a new process to the first map, as when the service starts.

    Args:
        release: Folder of the release.
        precision: The precision to fly.
        engine: onnxruntime or tensorrt.

    Raises:
        CheckError: The process fails, or takes longer than `MAX_COMMAND_S`.
    """
    command = [
        sys.executable, "-m", "edge.cli.main", "run", START_SOURCE, "--release", str(release),
        "--precision", precision, "--engine", engine,
    ]  # fmt: skip
    started_s = time.monotonic()
    try:
        # In the root folder: Python imports from the folder that it starts in, which may be a user's.
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=MAX_COMMAND_S
        )
    except subprocess.TimeoutExpired:
        raise CheckError(
            f"the release does not start within {MAX_COMMAND_S:g} s on this board: end other programs, "
            "or install a smaller student"
        ) from None
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckError(f"the release does not start in a process of its own: {last_line}")
    return time.monotonic() - started_s
