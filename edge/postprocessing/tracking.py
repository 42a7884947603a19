"""Tracking of regions: a region keeps its id over missed frames and through the camera's motion."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge.postprocessing.regions import Region

MAX_COAST_S = 0.5
"""Time that a region is kept without being seen."""
GATE = 0.08
"""Largest distance, in frame widths, between a region and its prediction; see `GATE_PER_S`."""
GATE_PER_S = 0.4
"""Growth of the gate per second since the region was seen."""
DEFAULT_THRESHOLD = 0.03
"""Score from which a region is reported, where the release has no calibration: score is then its share."""
KEEP_RATIO = 0.5
"""A region that already has an id may have this fraction of the threshold (Y. Zhang et al., "ByteTrack",
ECCV 2022)."""
VELOCITY_TIME_S = 0.25
"""Time constant of a region's velocity."""
SWITCH_RATIO = 1.3
"""The region to follow, at which gimbals point, is replaced only by one with this many times its share."""


@dataclass
class _Track:
    """A region under its id, with its velocity in frame widths and heights per second."""

    region: Region
    born_s: float
    seen_s: float
    vx: float = 0.0
    vy: float = 0.0


class RegionTracker:
    """Gives regions their ids. Distances are in frame widths, so that both axes count alike.

    Args:
        threshold: Score from which a region is reported.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        self._threshold = threshold
        self._tracks: list[_Track] = []
        self._last_id = 0
        self._followed_id = 0
        self._time_s: float | None = None
        self._last_step_s = 0.0

    def __call__(
        self,
        regions: tuple[Region, ...],
        time_s: float,
        aspect: float = 1.0,
        from_last: NDArray[np.float64] | None = None,
    ) -> tuple[Region, ...]:
        """Return the tracked regions of a frame.

        The tracks are forgotten, but not the ids used, when the time goes back or leaps: by more than
        `MAX_COAST_S` and more than twice the last step, because frames may come once per second.

        Args:
            regions: Regions found in the frame.
            time_s: Time of the frame in seconds.
            aspect: The frame's height over its width.
            from_last: Motion of the camera: homography (3, 3) from the last frame to this one, in [0, 1].

        Returns:
            The regions with ids. The one to follow is first; then those that were seen come before those
            that are coasting, by falling share of the map.
        """
        step_s = 0.0 if self._time_s is None else time_s - self._time_s
        last_step_s = self._last_step_s
        self._time_s, self._last_step_s = time_s, step_s
        regions = tuple(region for region in regions if region.score >= KEEP_RATIO * self._threshold)
        if not 0 <= step_s <= max(MAX_COAST_S, 2 * last_step_s):
            self._tracks.clear()
        for track in self._tracks:
            track.region = _predict(track, step_s, from_last)
        new_regions, missed = self._match(regions, time_s, aspect, step_s)
        self._tracks = [
            track
            for index, track in enumerate(self._tracks)
            if index not in missed or (time_s - track.seen_s <= MAX_COAST_S and _is_in_frame(track.region))
        ]
        for region in new_regions:
            if region.score >= self._threshold:
                self._last_id += 1
                self._tracks.append(_Track(replace(region, id=self._last_id), time_s, time_s))
        return self._output(time_s)

    def _match(
        self, regions: tuple[Region, ...], time_s: float, aspect: float, step_s: float
    ) -> tuple[list[Region], set[int]]:
        """Update the tracks with the nearest regions.

        Returns:
            The regions without a track, and the indices of the tracks without a region.
        """
        unmatched_regions = set(range(len(regions)))
        unmatched_tracks = set(range(len(self._tracks)))
        # Greedy assignment: the nearest pair first.
        for _, track_index, region_index in sorted(self._pairs(regions, time_s, aspect)):
            if track_index in unmatched_tracks and region_index in unmatched_regions:
                unmatched_tracks.remove(track_index)
                unmatched_regions.remove(region_index)
                _update(self._tracks[track_index], regions[region_index], time_s, step_s)
        return [regions[index] for index in sorted(unmatched_regions)], unmatched_tracks

    def _pairs(
        self, regions: tuple[Region, ...], time_s: float, aspect: float
    ) -> list[tuple[float, int, int]]:
        """Return (distance, track index, region index) of all pairs within the gate."""
        pairs = []
        for track_index, track in enumerate(self._tracks):
            gate = GATE + GATE_PER_S * (time_s - track.seen_s)
            for region_index, region in enumerate(regions):
                distance = math.hypot(region.x - track.region.x, (region.y - track.region.y) * aspect)
                if distance <= gate:
                    pairs.append((distance, track_index, region_index))
        return pairs

    def _output(self, time_s: float) -> tuple[Region, ...]:
        """Return the regions of all tracks, the one to follow first."""
        regions = [
            _clip_to_frame(track.region, age_s=time_s - track.born_s, coasting=track.seen_s < time_s)
            for track in self._tracks
        ]
        regions.sort(key=lambda region: (region.coasting, -region.share))
        followed = next((region for region in regions if region.id == self._followed_id), None)
        if regions and (followed is None or regions[0].share > SWITCH_RATIO * followed.share):
            followed = regions[0]
        if followed is None:
            self._followed_id = 0
            return ()
        self._followed_id = followed.id
        return (followed, *(region for region in regions if region is not followed))


def _update(track: _Track, region: Region, time_s: float, step_s: float) -> None:
    """Move a track to a region; only the velocity is filtered, because the map is smoothed already."""
    gain = 1 - math.exp(-step_s / VELOCITY_TIME_S)
    if step_s > 0:
        track.vx += gain * (region.x - track.region.x) / step_s
        track.vy += gain * (region.y - track.region.y) / step_s
    track.region = replace(region, id=track.region.id)
    track.seen_s = time_s


def _predict(track: _Track, step_s: float, from_last: NDArray[np.float64] | None) -> Region:
    region = track.region
    x, y = region.x, region.y
    if from_last is not None:
        mapped = from_last @ (x, y, 1.0)
        if mapped[2] > 0:
            x, y = float(mapped[0] / mapped[2]), float(mapped[1] / mapped[2])
    return _shift(region, x - region.x + track.vx * step_s, y - region.y + track.vy * step_s)


def _shift(region: Region, dx: float, dy: float) -> Region:
    return replace(
        region,
        x=region.x + dx,
        y=region.y + dy,
        left=region.left + dx,
        right=region.right + dx,
        top=region.top + dy,
        bottom=region.bottom + dy,
    )


def _clip_to_frame(region: Region, age_s: float, coasting: bool) -> Region:
    """Return the region with its box cut at the sides of the frame, and with its age."""
    left, top, right, bottom = (
        min(max(side, 0.0), 1.0) for side in (region.left, region.top, region.right, region.bottom)
    )
    return replace(region, left=left, top=top, right=right, bottom=bottom, age_s=age_s, coasting=coasting)


def _is_in_frame(region: Region) -> bool:
    """Return whether the centre of a region is in the frame."""
    return 0 <= region.x <= 1 and 0 <= region.y <= 1
