"""JSON lines sink: one object per frame."""

from __future__ import annotations

import contextlib
import json
from io import FileIO
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.geolocation import Geolocator, GeoPoint
from edge.postprocessing.peaks import find_peaks
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.output_stream import is_stream, open_stream
from edge.sinks.files.recovery import LockedFile


class JsonlSink:
    """Writes one JSON object per frame; docs/reference/sinks.md describes its fields.

    Args:
        path: Output file, or a stream: `-` is the standard output.
        transform: Applied to each result first, for example to find regions.
        camera: Adds bearing and elevation to each region.
        locator: Adds latitude and longitude to each region.

    Raises:
        InputError: The file cannot be created, or, from `write` and `finish`, the disk is full.
    """

    def __init__(
        self,
        path: Path,
        transform: ResultTransform = identity,
        camera: CameraGeometry | None = None,
        locator: Geolocator | None = None,
    ) -> None:
        self._transform, self._camera, self._locator = transform, camera, locator
        self._path = path
        self._pending = None if is_stream(path) else LockedFile(path)
        self._file = open_stream(path) if self._pending is None else FileIO(self._pending.path, "wb")
        self._complete_bytes = 0

    def write(self, result: Result) -> None:
        """Append one line."""
        peaks = find_peaks(result.saliency)
        result = self._transform(result)
        height, width = result.frame.height, result.frame.width
        regions = [region_to_json(region, width, height, self._camera) for region in result.regions]
        if self._locator is not None:
            for row, region in zip(regions, result.regions, strict=True):
                point = self._locator.locate(region, result.frame.capture_s, height / width)
                row |= geo_point_to_json(point)
        line: dict[str, object] = {
            "frame": result.frame.index,
            "capture_s": round(result.frame.capture_s, 6),
            "latency_ms": round(result.latency_ms, 3),
            "peaks": [
                {
                    "x": round(peak.x * width, 1),
                    "y": round(peak.y * height, 1),
                    "score": round(peak.score, 4),
                }
                for peak in peaks
            ],
            "regions": regions,
        }
        if result.frame.stamp_ns is not None:
            line |= {"stamp_ns": result.frame.stamp_ns, "frame_id": result.frame.frame_id}
        data = f"{json.dumps(line)}\n".encode()
        with translate_write_errors(self._path):
            while data:
                # An unbuffered write to an almost full disk can take a part of the line.
                data = data[self._file.write(data) :]
        if self._pending is not None:
            self._complete_bytes = self._file.tell()

    def finish(self) -> None:
        """Cut off an incomplete last line and close the file."""
        with translate_write_errors(self._path):
            if self._pending is not None:
                self._file.truncate(self._complete_bytes)
            self._file.close()

    def commit(self) -> None:
        """Move the file to its final path."""
        if self._pending is not None:
            self._pending.commit()

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._pending is not None:
            self._pending.discard()


def region_to_json(
    region: Region, width: int, height: int, camera: CameraGeometry | None
) -> dict[str, object]:
    """Return a region as a JSON object.

    Args:
        region: The region, in relative coordinates.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.
        camera: Adds `bearing_deg` and `elevation_deg`.

    Returns:
        Coordinates in pixels of the frame, angles in degrees.
    """
    row: dict[str, object] = {
        "id": region.id,
        "x": round(region.x * width, 1),
        "y": round(region.y * height, 1),
        "left": round(region.left * width, 1),
        "top": round(region.top * height, 1),
        "right": round(region.right * width, 1),
        "bottom": round(region.bottom * height, 1),
        "score": round(region.score, 4),
        "share": round(region.share, 4),
        "age_s": round(region.age_s, 3),
        "coasting": region.coasting,
    }
    if camera is not None:
        bearing, elevation = camera.direction(region.x, region.y, height / width)
        row |= {"bearing_deg": round(bearing, 2), "elevation_deg": round(elevation, 2)}
    return row


def geo_point_to_json(point: GeoPoint | None) -> dict[str, object]:
    """Return the place of a region as keys of a JSON object, which are null if it is unknown."""
    return {
        "latitude_deg": point and round(point.latitude_deg, 7),
        "longitude_deg": point and round(point.longitude_deg, 7),
        "accuracy_m": point and round(point.accuracy_m, 1),
    }
