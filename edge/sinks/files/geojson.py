"""GeoJSON sink: one point for each region of a flight that had a coordinate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.postprocessing.geolocation import Geolocator, GeoPoint
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, ResultTransform
from edge.sinks.files.recovery import LockedFile

WRITE_INTERVAL_S = 5.0
"""Time between two writes, so that a killed run loses no more than that."""
MAX_REGIONS = 10_000
"""Regions that are kept; the oldest are left out first."""


@dataclass
class _Sighting:
    """What is known of one region."""

    best: GeoPoint
    region: Region
    first_s: float
    last_s: float
    count: int = 1


class GeojsonSink:
    """Writes a FeatureCollection (RFC 7946) with a point for each region that had a coordinate.

    The point is the most accurate one of all frames in which the region was seen.

    Args:
        path: Output file.
        transform: Applied to each result first, to find regions.
        locator: Gives regions a coordinate.
        clock: Monotonic clock in seconds, that of the frames.
        wall_clock: Seconds since 1970.

    Raises:
        InputError: The file cannot be created, or, from `write` and `finish`, the disk is full.
    """

    def __init__(
        self,
        path: Path,
        transform: ResultTransform,
        locator: Geolocator,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._transform, self._locator = path, transform, locator
        self._clock, self._wall_clock = clock, wall_clock
        self._sightings: dict[int, _Sighting] = {}
        self._last_write_s = clock()
        self._pending = LockedFile(path)

    def write(self, result: Result) -> None:
        """Add the regions of a result."""
        result = self._transform(result)
        frame = result.frame
        for region in result.regions:
            point = self._locator.locate(region, frame.capture_s, frame.height / frame.width)
            if point is not None:
                self._add(region, point, frame.capture_s)
        if self._clock() - self._last_write_s >= WRITE_INTERVAL_S:
            self._last_write_s = self._clock()
            self._rewrite()

    def finish(self) -> None:
        """Write the whole collection."""
        self._rewrite()

    def commit(self) -> None:
        """Move the file to its final path."""
        self._pending.commit()

    def discard(self) -> None:
        """Remove the file."""
        self._pending.discard()

    def _add(self, region: Region, point: GeoPoint, time_s: float) -> None:
        known = self._sightings.get(region.id)
        if known is None:
            self._sightings[region.id] = _Sighting(point, region, time_s, time_s)
            if len(self._sightings) > MAX_REGIONS:
                del self._sightings[next(iter(self._sightings))]
            return
        known.last_s, known.count = time_s, known.count + 1
        if point.accuracy_m < known.best.accuracy_m:
            known.best, known.region = point, region

    def _rewrite(self) -> None:
        features = [self._feature(number, sighting) for number, sighting in self._sightings.items()]
        data = json.dumps({"type": "FeatureCollection", "features": features}).encode()
        with translate_write_errors(self._path):
            self._pending.replace_content(data)

    def _feature(self, number: int, sighting: _Sighting) -> dict[str, object]:
        point = sighting.best
        return {
            "type": "Feature",
            "id": number,
            "geometry": {
                "type": "Point",
                "coordinates": [round(point.longitude_deg, 7), round(point.latitude_deg, 7)],
            },
            "properties": {
                "accuracy_m": round(point.accuracy_m, 1),
                "ground_m": round(point.altitude_m, 1),
                "score": round(sighting.region.score, 4),
                "frames": sighting.count,
                "first_seen": self._date(sighting.first_s),
                "last_seen": self._date(sighting.last_s),
            },
        }

    def _date(self, time_s: float) -> str:
        """Return a time of the monotonic clock as date and time, UTC."""
        moment = datetime.fromtimestamp(self._wall_clock() - self._clock() + time_s, timezone.utc)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
