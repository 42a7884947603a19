"""JSON lines: one object a frame."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from edge.core.atomic_files import PendingFile, translate_write_errors
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.peaks import find_peaks
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, ResultTransform, identity


class JsonlSink:
    """Writes an object a frame; the fields are in docs/sinks.md.

    `camera` adds where its regions are: bearing and elevation.

    Raises:
        InputError: the file cannot be made; later: the disk is full.
    """

    def __init__(
        self, path: Path, transform: ResultTransform = identity, camera: CameraGeometry | None = None
    ) -> None:
        self._transform, self._camera = transform, camera
        self._pending = PendingFile(path)
        self._file = self._pending.path.open("wb", buffering=0)
        self._whole = 0

    def write(self, result: Result) -> None:
        """Append one line."""
        peaks = find_peaks(result.saliency)
        result = self._transform(result)
        height, width = result.frame.height, result.frame.width
        row = {
            "frame": result.frame.index,
            "capture_s": round(result.frame.capture_s, 6),
            "latency_ms": round(result.latency_ms, 3),
            "peaks": [
                {
                    "x": round(p.x * width, 1),
                    "y": round(p.y * height, 1),
                    "score": round(p.score, 4),
                }
                for p in peaks
            ],
            "regions": [region_to_json(region, width, height, self._camera) for region in result.regions],
        }
        line = f"{json.dumps(row)}\n".encode()
        with translate_write_errors(self._pending.target):
            while line:
                line = line[self._file.write(line) :]  # a disk that gets full takes a part
        self._whole = self._file.tell()

    def finish(self) -> None:
        """Close the file, without the part of a line that a full disk took."""
        with translate_write_errors(self._pending.target):
            self._file.truncate(self._whole)
            self._file.close()

    def commit(self) -> None:
        """Put the file in its place."""
        self._pending.commit()

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._pending.discard()


def region_to_json(
    region: Region, width: int, height: int, camera: CameraGeometry | None
) -> dict[str, object]:
    """Return the region as JSON has it: in pixels of a width x height frame, angles in degrees."""
    row: dict[str, object] = {
        "id": region.id,
        "x": round(region.x * width, 1),
        "y": round(region.y * height, 1),
        "left": round(region.left * width, 1),
        "top": round(region.top * height, 1),
        "right": round(region.right * width, 1),
        "bottom": round(region.bottom * height, 1),
        "score": round(region.score, 4),
        "age_s": round(region.age_s, 3),
        "coasting": region.coasting,
    }
    if camera is not None:
        bearing, elevation = camera.direction(region.x, region.y, height / width)
        row |= {"bearing_deg": round(bearing, 2), "elevation_deg": round(elevation, 2)}
    return row
