"""Analysis of results: maps are smoothed, and regions found and tracked, once for all sinks."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Frame, Image, Tensor
from edge.metrics.score_calibration import ScoreCalibration
from edge.postprocessing.regions import Region, find_regions
from edge.postprocessing.result import Result
from edge.postprocessing.temporal_filter import TemporalFilter
from edge.postprocessing.tracking import DEFAULT_THRESHOLD, RegionTracker
from edge.preprocessing.egomotion import estimate_homography

MOTION_IMAGE_PX = 160
"""Longer side of the reduced frames in which the camera's motion is estimated."""
MAX_ANALYSES = 16
"""Analyses that are kept for slower sinks; no sink of a file's run can be further behind."""


@dataclass(frozen=True)
class _Analysis:
    """Analysis of a frame, with a weak reference to the frame, which is large."""

    frame: weakref.ref[Frame]
    saliency: Tensor
    regions: tuple[Region, ...]


class MapAnalyzer:
    """Adds smoothed maps and tracked regions to results.

    The sinks share one analyzer and call it on their own threads, so inference does not wait for it.

    Args:
        calibration: Calibration of the release's scores; None scores each region by its share of the map.
        threshold: Score from which a region is reported; None takes that of the calibration.
    """

    def __init__(self, calibration: ScoreCalibration | None = None, threshold: float | None = None) -> None:
        if threshold is None:
            threshold = calibration.threshold if calibration else DEFAULT_THRESHOLD
        self._calibration = calibration
        self._smooth, self._track = TemporalFilter(), RegionTracker(threshold)
        self._last_image: Image | None = None
        self._analyses: OrderedDict[int, _Analysis] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, result: Result) -> Result:
        """Return the result with its map smoothed and its regions, the one to follow first.

        Each frame is analyzed once. A frame that comes after a newer one, because all other sinks skipped
        it, keeps its map and gets the newest regions.
        """
        index = result.frame.index
        with self._lock:
            newest = next(reversed(self._analyses), -1)
            analysis = self._analyses.get(index)
            if analysis is not None and analysis.frame() is not result.frame:
                self._analyses.clear()  # another source, or the same one from its start
            elif analysis is None and newest - MAX_ANALYSES < index < newest:
                return replace(result, regions=self._analyses[newest].regions)
            if index not in self._analyses:
                self._analyses[index] = self._analyze(result)
                if len(self._analyses) > MAX_ANALYSES:
                    self._analyses.popitem(last=False)
            analysis = self._analyses[index]
        return replace(result, saliency=analysis.saliency, regions=analysis.regions)

    def _analyze(self, result: Result) -> _Analysis:
        time_s, (height, width) = result.frame.capture_s, result.frame.image.shape[:2]
        to_last = self._camera_motion(result.frame.image)
        smoothed = self._smooth(result.saliency, time_s, _in_pixels(to_last, *result.saliency.shape))
        from_last = None if to_last is None else np.asarray(np.linalg.inv(to_last), np.float64)
        found = find_regions(smoothed, calibration=self._calibration)
        regions = self._track(found, time_s, height / width, from_last)
        return _Analysis(weakref.ref(result.frame), smoothed, regions)

    def _camera_motion(self, image: Image) -> NDArray[np.float64] | None:
        """Return the homography from this frame to the last one, both in [0, 1]; None if unknown."""
        scale = MOTION_IMAGE_PX / max(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        # Area interpolation takes thirty times as long, and corners do not need it.
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        last, current = self._last_image, np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)
        self._last_image = current
        if last is None or last.shape != current.shape:
            return None
        to_last = estimate_homography(last, current)
        if to_last is None or abs(np.linalg.det(to_last)) < 1e-6:
            return None
        to_shares, to_pixels = _normalization(*current.shape)
        return np.asarray(to_shares @ to_last @ to_pixels, np.float64)


@lru_cache(maxsize=16)
def _normalization(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix (3, 3) from pixel indices to shares of the width and height, and its inverse."""
    return (
        np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]]),
        np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]]),
    )


def _in_pixels(homography: NDArray[np.float64] | None, height: int, width: int) -> NDArray[np.float64] | None:
    """Return a homography between positions in [0, 1] as one between the pixels of a map."""
    if homography is None:
        return None
    to_shares, to_pixels = _normalization(height, width)
    return np.asarray(to_pixels @ homography @ to_shares, np.float64)
