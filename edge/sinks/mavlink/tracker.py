"""Choice of the region that the camera tracks."""

from __future__ import annotations

import math

from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result

TAP_RADIUS = 0.05
"""How far a tap may be from the box of a region, in widths of the frame: fingers are not exact."""


class TargetTracker:
    """Tracks the first region of each result, or the one that a command has picked.

    Not thread-safe: the sink holds its lock around all calls.

    Args:
        frame_width: Width of the frames in pixels; 0 if unknown.
        frame_height: Height of the frames in pixels; 0 if unknown.

    Attributes:
        frame_width: Width of the last frame in pixels.
        frame_height: Height of the last frame in pixels.
        frame_s: Time of capture of the last frame in seconds.
    """

    def __init__(self, frame_width: int = 0, frame_height: int = 0) -> None:
        self.frame_width, self.frame_height = frame_width, frame_height
        self.frame_s = 0.0
        self._regions: tuple[Region, ...] = ()
        self._picked_id: int | None = None
        self._is_stopped = False

    def update(self, result: Result) -> None:
        """Take over the regions of a new result."""
        self.frame_width, self.frame_height = result.frame.width, result.frame.height
        self.frame_s = result.frame.capture_s
        self._regions = result.regions

    @property
    def target(self) -> Region | None:
        """The tracked region; None if tracking was stopped, or if there is no region to track."""
        if self._is_stopped:
            return None
        if self._picked_id is None:
            return self._regions[0] if self._regions else None
        return next((region for region in self._regions if region.id == self._picked_id), None)

    def pick_point(self, x: float, y: float, radius: float = TAP_RADIUS) -> bool:
        """Track the region at a point, or else the nearest one around it.

        Args:
            x: Horizontal position in [0, 1].
            y: Vertical position in [0, 1].
            radius: How far the box of the region may be from the point, in widths of the frame.

        Returns:
            Whether there is such a region; if not, nothing changes.
        """
        aspect = self.frame_height / max(1, self.frame_width)

        def distance(region: Region) -> tuple[float, float]:
            """Return the distance to the box, and that to the centre, which decides inside of boxes."""
            right = max(region.left - x, 0.0, x - region.right)
            down = max(region.top - y, 0.0, y - region.bottom) * aspect
            return math.hypot(right, down), math.hypot(region.x - x, (region.y - y) * aspect)

        nearest = min(self._regions, key=distance, default=None)
        return self._pick(nearest if nearest and distance(nearest)[0] <= radius else None)

    def pick_rectangle(self, x1: float, y1: float, x2: float, y2: float) -> bool:
        """Track the region that overlaps most of a rectangle, or else the one at its centre.

        Args:
            x1: Horizontal position in [0, 1] of one corner.
            y1: Vertical position in [0, 1] of that corner.
            x2: Horizontal position in [0, 1] of the opposite corner.
            y2: Vertical position in [0, 1] of that corner.

        Returns:
            Whether there is such a region; if not, nothing changes.
        """
        left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)

        def overlap(region: Region) -> float:
            width = min(region.right, right) - max(region.left, left)
            height = min(region.bottom, bottom) - max(region.top, top)
            return max(width, 0.0) * max(height, 0.0)

        largest = max(self._regions, key=overlap, default=None)
        if largest is None or not overlap(largest) > 0:
            return self.pick_point((x1 + x2) / 2, (y1 + y2) / 2)
        return self._pick(largest)

    def stop(self) -> None:
        """Track nothing until a region is picked."""
        self._is_stopped = True

    def _pick(self, region: Region | None) -> bool:
        if region is None:
            return False
        self._picked_id, self._is_stopped = region.id, False
        return True
