"""Regions over frames: the same thing keeps its id, through frames that miss it and the camera's motion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.postprocessing.regions import Region

HOLD_S = 0.5
"""How long a region that is not seen is kept."""
GATE = 0.08
"""How far, in widths of the frame, a region may be from where it was expected: plus `REACH_PER_S`
for each second since it was seen."""
REACH_PER_S = 0.4
START = 0.03
"""A region of a lower score gets no id, but goes on with one that it has: Y. Zhang et al., "ByteTrack",
ECCV 2022, which keeps weak detections for what is already tracked."""
SETTLE_S = 0.25
"""Time constant of a region's velocity."""
LEAD = 1.3
"""The first region, which gimbals follow, gives way only to one with this many times its score."""


@dataclass
class _Track:
    region: Region
    born_s: float
    seen_s: float
    vx: float = 0.0
    vy: float = 0.0


class RegionTracker:
    """Gives regions their ids. Distances are in widths of the frame, so that both axes count alike."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._given, self._first = 0, 0
        self._at_s: float | None = None
        self._usual_s = 0.0

    def __call__(
        self,
        regions: tuple[Region, ...],
        at_s: float,
        aspect: float = 1.0,
        motion: NDArray[np.float64] | None = None,
    ) -> tuple[Region, ...]:
        """Return the moment's regions with ids, those that are missed for a while included.

        The first is the one to follow; the others come by falling score, seen before missed.

        `at_s`: seconds; when they go back, or leap by more than `HOLD_S` and than twice the time before
        (frames may come once a second), all is forgotten but the ids given. `aspect`: the frame's height over
        its width. `motion`: the camera's own, a homography (3, 3) from the last frame to this one, both in
        [0, 1].
        """
        elapsed_s = 0.0 if self._at_s is None else at_s - self._at_s
        self._at_s = at_s
        usual_s, self._usual_s = self._usual_s, elapsed_s
        if not 0 <= elapsed_s <= max(HOLD_S, 2 * usual_s):
            self._tracks.clear()
        for track in self._tracks:
            track.region = _predicted(track, elapsed_s, motion)
        free = set(range(len(regions)))
        waiting = set(range(len(self._tracks)))
        for _, at, seen in sorted(self._near(regions, at_s, aspect)):
            if at in waiting and seen in free:
                waiting.remove(at)
                free.remove(seen)
                self._follow(self._tracks[at], regions[seen], at_s, elapsed_s)
        self._tracks = [
            track
            for at, track in enumerate(self._tracks)
            if at not in waiting or (at_s - track.seen_s <= HOLD_S and _within(track.region))
        ]
        for seen in sorted(free):
            if regions[seen].score < START:
                continue
            self._given += 1
            self._tracks.append(_Track(replace(regions[seen], id=self._given), at_s, at_s))
        return self._told(at_s)

    def _near(self, regions: tuple[Region, ...], at_s: float, aspect: float) -> list[tuple[float, int, int]]:
        """Return (distance, track, region) of all pairs within the gate."""
        pairs = []
        for at, track in enumerate(self._tracks):
            gate = GATE + REACH_PER_S * (at_s - track.seen_s)
            for seen, region in enumerate(regions):
                apart = math.hypot(region.x - track.region.x, (region.y - track.region.y) * aspect)
                if apart <= gate:
                    pairs.append((apart, at, seen))
        return pairs

    @staticmethod
    def _follow(track: _Track, region: Region, at_s: float, elapsed_s: float) -> None:
        """Take what is seen as it is: the map was smoothed already. Only the velocity is filtered."""
        gain = 1 - math.exp(-elapsed_s / SETTLE_S)
        if elapsed_s > 0:
            track.vx += gain * (region.x - track.region.x) / elapsed_s
            track.vy += gain * (region.y - track.region.y) / elapsed_s
        track.region = replace(region, id=track.region.id)
        track.seen_s = at_s

    def _told(self, at_s: float) -> tuple[Region, ...]:
        told = [
            replace(_inside(track.region), age_s=at_s - track.born_s, coasting=track.seen_s < at_s)
            for track in self._tracks
        ]
        told.sort(key=lambda region: (region.coasting, -region.score))
        first = next((region for region in told if region.id == self._first), None)
        if told and (first is None or told[0].score > LEAD * first.score):
            first = told[0]
        if first is None:
            self._first = 0
            return ()
        self._first = first.id
        return (first, *(region for region in told if region is not first))


def _predicted(track: _Track, elapsed_s: float, motion: NDArray[np.float64] | None) -> Region:
    region = track.region
    x, y = region.x, region.y
    if motion is not None:
        mapped = motion @ (x, y, 1.0)
        if mapped[2] > 0:
            x, y = float(mapped[0] / mapped[2]), float(mapped[1] / mapped[2])
    return _shifted(region, x - region.x + track.vx * elapsed_s, y - region.y + track.vy * elapsed_s)


def _shifted(region: Region, dx: float, dy: float) -> Region:
    return replace(
        region,
        x=region.x + dx,
        y=region.y + dy,
        left=region.left + dx,
        right=region.right + dx,
        top=region.top + dy,
        bottom=region.bottom + dy,
    )


def _inside(region: Region) -> Region:
    """Return the region without what of its box lies outside the frame, as of one that coasts out of it."""
    left, top, right, bottom = (
        min(max(side, 0.0), 1.0) for side in (region.left, region.top, region.right, region.bottom)
    )
    return replace(region, left=left, top=top, right=right, bottom=bottom)


def _within(region: Region) -> bool:
    """Say whether the region's middle is still in the frame."""
    return 0 <= region.x <= 1 and 0 <= region.y <= 1
