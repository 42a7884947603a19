"""Content of the live page: the newest picture, encoded on demand, and recent counts."""

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
from edge.sinks.files.overlay_video import draw_overlay, overlay_size

MAX_LONG_SIDE = 960
"""Maximum longer side of a picture in pixels."""
JPEG_QUALITY = 80
HISTORY_S = 5 * 60
"""Length of the history, with one point per second."""
VIEWER_TIMEOUT_S = 3.0
"""After this time without a request, the page counts as having no viewers."""


class LiveView:
    """Newest result and recent counts, shared between the pipeline and any number of clients.

    `update` costs microseconds. A picture is drawn and encoded once, on the thread of the first client that
    requests it.

    Args:
        status: Status to show.
        transform: Applied to results while there are viewers.
        camera: Adds bearing and elevation to each region.
        clock: Monotonic clock in seconds.
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
        self._last_request_s = -VIEWER_TIMEOUT_S
        self._is_closed = False
        self._history: deque[dict[str, float]] = deque(maxlen=HISTORY_S)
        self._last_sample = (clock(), 0, 0)  # time, frames, dropped

    def update(self, result: Result) -> None:
        """Store the newest result; transform it only while there are viewers."""
        if self._clock() - self._last_request_s < VIEWER_TIMEOUT_S:
            result = self._transform(result)
        with self._changed:
            self._latest = result
            self._number += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wake all waiting clients; they get no more pictures."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def picture(self, after: int, wait_s: float) -> tuple[int, bytes] | None:
        """Wait for a picture that is newer than a given one.

        Args:
            after: Number of the last picture that the client has; 0 for none.
            wait_s: Maximum time to wait.

        Returns:
            Number and JPEG of the newest picture; None on timeout or if the view is closed.
        """
        self._last_request_s = self._clock()
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._number > after, wait_s)
            if self._is_closed or self._number <= after:
                return None
        with self._encoding:
            with self._changed:
                number, result = self._number, self._latest
            if self._jpeg[0] != number and result is not None:
                self._jpeg = number, _encode_picture(result)
            return self._jpeg

    def sample_history(self) -> None:
        """Add a point to the history if at least a second has passed since the last one."""
        now = self._clock()
        last_s, frames, dropped = self._last_sample
        if now - last_s < 1:
            return
        snapshot = self.status.snapshot()
        self._last_sample = now, snapshot.frames, snapshot.dropped
        self._history.append(
            {
                "fps": round((snapshot.frames - frames) / (now - last_s), 1),
                "dropped": round((snapshot.dropped - dropped) / (now - last_s), 1),
            }
        )

    def status_document(self) -> dict[str, object]:
        """Return everything that the page shows except the picture, as a JSON object."""
        self._last_request_s = self._clock()
        snapshot, result = self.status.snapshot(), self._latest
        latencies_ms = snapshot.latencies_ms or (0.0,)
        p50, p90, p99 = np.percentile(latencies_ms, [50, 90, 99])
        document: dict[str, object] = {
            "about": vars(snapshot.run_info),
            "state": snapshot.state,
            "uptime_s": round(snapshot.uptime_s, 1),
            "frames": snapshot.frames,
            "dropped": snapshot.dropped,
            "held": snapshot.held,
            "fps": round(snapshot.fps, 1),
            "latency_ms": {"p50": round(p50, 2), "p90": round(p90, 2), "p99": round(p99, 2)},
            "latencies_ms": [round(value, 2) for value in snapshot.latencies_ms],
            "history": list(self._history),
            "faults": snapshot.faults,
            "open_faults": snapshot.open_faults,
        }
        if result is not None:
            height, width = result.frame.height, result.frame.width
            rows = [region_to_json(region, width, height, self._camera) for region in result.regions]
            document |= {"frame": result.frame.index, "width": width, "height": height, "regions": rows}
        return document


def _encode_picture(result: Result) -> bytes:
    height, width = result.frame.image.shape[:2]
    picture = draw_overlay(result, *overlay_size(width, height, MAX_LONG_SIDE))
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
