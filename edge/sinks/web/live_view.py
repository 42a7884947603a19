"""What the page shows: the newest picture, encoded when somebody asks, and the last minutes' numbers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import cv2
import numpy as np

from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import Result, ResultTransform
from edge.sinks.files.jsonl import region_to_json
from edge.sinks.files.overlay_video import draw_overlay

LONG_SIDE = 960
"""Most pixels of a picture's longer side."""
QUALITY = 80
MINUTES = 5
WATCHED_S = 3.0
"""How long after a question somebody is still thought to be there."""


class LiveView:
    """Takes results from the pipeline's side, and answers any number of clients.

    Taking one costs microseconds: a picture is drawn and encoded by the first client's thread that wants
    it, once for all.
    """

    def __init__(
        self,
        status: Status,
        transform: ResultTransform,
        camera: CameraGeometry | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = status
        self._transform, self._camera, self._clock = transform, camera, clock
        self._changed = threading.Condition()
        self._encoding = threading.Lock()
        self._latest: Result | None = None
        self._number = 0
        self._jpeg: tuple[int, bytes] = (0, b"")
        self._asked_s = -WATCHED_S
        self._closed = False
        self._history: deque[dict[str, float]] = deque(maxlen=60 * MINUTES)
        self._counted = (clock(), 0, 0)

    def take(self, result: Result) -> None:
        """Keep the newest result; look at it only if somebody is there."""
        if self._clock() - self._asked_s < WATCHED_S:
            result = self._transform(result)
        with self._changed:
            self._latest = result
            self._number += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let all who wait go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def picture(self, after: int, wait_s: float) -> tuple[int, bytes] | None:
        """Return the number and JPEG of the newest picture, once it is newer than `after`.

        None if there is none within `wait_s`, or the page is closed.
        """
        self._asked_s = self._clock()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > after, wait_s)
            if self._closed or self._number <= after:
                return None
        with self._encoding:
            with self._changed:
                number, result = self._number, self._latest
            if self._jpeg[0] != number and result is not None:
                self._jpeg = number, _encoded(result)
            return self._jpeg

    def sample(self) -> None:
        """Add a point to the history, if a second has passed since the last."""
        now = self._clock()
        then, frames, dropped = self._counted
        if now - then < 1:
            return
        seen = self.status.snapshot()
        self._counted = now, seen.frames, seen.dropped
        self._history.append(
            {
                "fps": round((seen.frames - frames) / (now - then), 1),
                "dropped": round((seen.dropped - dropped) / (now - then), 1),
            }
        )

    def document(self) -> dict[str, object]:
        """Return all that the page shows beside the picture, as JSON has it."""
        self._asked_s = self._clock()
        seen, result = self.status.snapshot(), self._latest
        latencies = seen.latencies_ms or (0.0,)
        p50, p90, p99 = np.percentile(latencies, [50, 90, 99])
        document: dict[str, object] = {
            "about": vars(seen.run_info),
            "state": seen.state,
            "uptime_s": round(seen.uptime_s, 1),
            "frames": seen.frames,
            "dropped": seen.dropped,
            "held": seen.held,
            "fps": round(seen.fps, 1),
            "latency_ms": {"p50": round(p50, 2), "p90": round(p90, 2), "p99": round(p99, 2)},
            "latencies_ms": [round(value, 2) for value in seen.latencies_ms],
            "history": list(self._history),
            "faults": seen.faults,
            "open_faults": seen.open_faults,
        }
        if result is not None:
            height, width = result.frame.height, result.frame.width
            rows = [region_to_json(region, width, height, self._camera) for region in result.regions]
            document |= {"frame": result.frame.index, "width": width, "height": height, "regions": rows}
        return document


def _encoded(result: Result) -> bytes:
    height, width = result.frame.image.shape[:2]
    shrink = min(1.0, LONG_SIDE / max(width, height))
    picture = draw_overlay(result, max(1, round(width * shrink)), max(1, round(height * shrink)))
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
