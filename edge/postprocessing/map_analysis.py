"""A result looked at: its map smoothed, its regions found and followed, once for all who want them."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Frame, Image, Tensor
from edge.postprocessing.regions import Region, find_regions
from edge.postprocessing.result import Result
from edge.postprocessing.temporal_filter import TemporalFilter
from edge.postprocessing.tracking import RegionTracker
from edge.preprocessing.egomotion import estimate_homography

SIGHT_PX = 160
"""Pixels of the frame's longer side in which the camera's motion is looked for."""
KEPT = 16
"""Findings kept for sinks that come later to them; more than any sink may be behind in a file's run."""


@dataclass(frozen=True)
class _Analysis:
    """What was found in a frame; not the frame, which is large."""

    frame: weakref.ref[Frame]
    saliency: Tensor
    regions: tuple[Region, ...]


class MapAnalyzer:
    """Turns results, in order, into results with smoothed maps and regions.

    Sinks share one, and call it on threads of their own: inference does not wait for it.
    """

    def __init__(self) -> None:
        self._smooth, self._track = TemporalFilter(), RegionTracker()
        self._sight: Image | None = None
        self._done: OrderedDict[int, _Analysis] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, result: Result) -> Result:
        """Return the result with its map smoothed and its regions, most worth following first.

        A frame that was looked at before is not looked at again. One that all others have skipped, and
        that comes after a newer one, gets the newest regions and keeps its map.
        """
        index = result.frame.index
        with self._lock:
            newest = next(reversed(self._done), -1)
            found = self._done.get(index)
            if found is not None and found.frame() is not result.frame:
                self._done.clear()  # another source, or it began anew
            elif found is None and newest - KEPT < index < newest:
                return replace(result, regions=self._done[newest].regions)
            if index not in self._done:
                self._done[index] = self._look(result)
                if len(self._done) > KEPT:
                    self._done.popitem(last=False)
            found = self._done[index]
        return replace(result, saliency=found.saliency, regions=found.regions)

    def _look(self, result: Result) -> _Analysis:
        at_s, (height, width) = result.frame.capture_s, result.frame.image.shape[:2]
        back = self._moved(result.frame.image)
        smoothed = self._smooth(result.saliency, at_s, _in_pixels(back, *result.saliency.shape))
        motion = None if back is None else np.asarray(np.linalg.inv(back), np.float64)
        regions = self._track(find_regions(smoothed), at_s, height / width, motion)
        return _Analysis(weakref.ref(result.frame), smoothed, regions)

    def _moved(self, image: Image) -> NDArray[np.float64] | None:
        """Return the camera's motion: a homography from this frame to the last, both in [0, 1]."""
        shrink = SIGHT_PX / max(image.shape[:2])
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        # Not by area, which costs thirty times as much: corners need no better.
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        before, self._sight = self._sight, np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)
        if before is None or before.shape != self._sight.shape:
            return None
        back = estimate_homography(before, self._sight)
        if back is None or abs(np.linalg.det(back)) < 1e-6:
            return None
        share = _shares(*self._sight.shape)
        return np.asarray(share @ back @ np.linalg.inv(share), np.float64)


def _shares(height: int, width: int) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that takes pixels' indices to shares of the width and height."""
    return np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])


def _in_pixels(back: NDArray[np.float64] | None, height: int, width: int) -> NDArray[np.float64] | None:
    """Return a homography between shares as one between the pixels of a map."""
    share = _shares(height, width)
    return None if back is None else np.asarray(np.linalg.inv(share) @ back @ share, np.float64)
