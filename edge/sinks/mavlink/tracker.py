"""Choice of the region that the camera tracks."""

from __future__ import annotations

import math

from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result

DEFAULT_INTERVAL_S = 0.1
"""Minimum time between tracking messages, unless MAV_CMD_SET_MESSAGE_INTERVAL sets another."""


class TargetTracker:
    """Tracks the first region of each result, or the one that a command has picked.

    Not thread-safe: the sink holds its lock around all calls.

    Attributes:
        frame_width: Width of the last frame in pixels; 0 before the first.
        frame_height: Height of the last frame in pixels; 0 before the first.
        interval_s: Minimum time between tracking messages; negative: send none.
    """

    def __init__(self) -> None:
        self.frame_width = self.frame_height = 0
        self.interval_s = DEFAULT_INTERVAL_S
        self._regions: tuple[Region, ...] = ()
        self._picked_id: int | None = None
        self._is_stopped = False

    def update(self, result: Result) -> None:
        """Take over the regions of a new result."""
        self.frame_width, self.frame_height = result.frame.width, result.frame.height
        self._regions = result.regions

    @property
    def target(self) -> Region | None:
        """The tracked region; None if tracking was stopped, or if there is no region to track."""
        if self._is_stopped:
            return None
        if self._picked_id is None:
            return self._regions[0] if self._regions else None
        return next((region for region in self._regions if region.id == self._picked_id), None)

    def pick(self, x: float, y: float) -> bool:
        """Track the region nearest to a point in [0, 1] x [0, 1]; return False if there is none."""
        if not self._regions or not (0 <= x <= 1 and 0 <= y <= 1):
            return False
        nearest = min(self._regions, key=lambda region: math.hypot(region.x - x, region.y - y))
        self._picked_id, self._is_stopped = nearest.id, False
        return True

    def stop(self) -> None:
        """Track nothing until a region is picked."""
        self._is_stopped = True
