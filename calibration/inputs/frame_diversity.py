"""Which windows of footage are unlike one another, found in one pass and in constant memory."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Descriptor = NDArray[np.float32]

THUMBNAIL = 4
ORIENTATIONS = 8


def describe_window(window: NDArray[np.uint8]) -> Descriptor:
    """Return what a window (length, height, width, 3) looks like, in 57 numbers between 0 and 1 or so.

    Of its last frame a thumbnail (4, 4, 3) and how strong edges of 8 orientations are; and how much it
    differs from the frame before. The Euclidean distance of two is how unlike they are.
    """
    last = window[-1]
    thumbnail = cv2.resize(last, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA) / np.float32(255)
    grey = cv2.cvtColor(last, cv2.COLOR_BGR2GRAY)
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *axis, ksize=3) / 1020 for axis in ((1, 0), (0, 1)))
    angle = (np.arctan2(dy, dx) % np.pi * (ORIENTATIONS / np.pi)).astype(int) % ORIENTATIONS
    edges = np.bincount(angle.ravel(), np.hypot(dx, dy).ravel(), ORIENTATIONS) / grey.size * ORIENTATIONS
    moved = cv2.absdiff(last, window[-2]).mean() / 255 if len(window) > 1 else 0.0
    return np.concatenate([thumbnail.ravel(), edges, [moved]]).astype(np.float32)


class DiverseSample:
    """At most `most` items that are unlike one another, of however many are offered.

    After Charikar et al., "Incremental clustering", STOC 1997: an item is kept if it is further than a
    radius from all that were kept; when they are too many, the radius grows until a quarter has gone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._radius = -1.0
        self._descriptors = np.empty((most + 1, 0), np.float32)
        self.items: list[tuple[int, int]] = []
        """What was kept: (number, slot), in order."""

    @property
    def descriptors(self) -> NDArray[np.float32]:
        """Of the items kept, (N, D)."""
        return self._descriptors[: len(self.items)]

    def wants(self, descriptor: Descriptor) -> bool:
        """Say whether an item is unlike those kept."""
        if not self.items:
            self._descriptors = np.empty((self._most + 1, descriptor.size), np.float32)
            return True
        return float(_distances(self.descriptors, descriptor).min()) > self._radius

    def add(self, descriptor: Descriptor, item: tuple[int, int]) -> list[tuple[int, int]]:
        """Keep an item that is wanted; return those that had to go for it."""
        self._descriptors[len(self.items)] = descriptor
        self.items.append(item)
        gone: list[tuple[int, int]] = []
        while len(self.items) > self._most:
            self._radius = self._nearest()
            kept: list[int] = []
            for index in range(len(self.items)):
                near = _distances(self._descriptors[kept], self._descriptors[index])
                if not kept or float(near.min()) > self._radius:
                    kept.append(index)
            gone += [item for index, item in enumerate(self.items) if index not in set(kept)]
            self._descriptors[: len(kept)] = self._descriptors[kept]
            self.items = [self.items[index] for index in kept]
        return gone

    def _nearest(self) -> float:
        """Return the distance to the nearest item before that a quarter of the items keeps at most."""
        near = [
            float(_distances(self._descriptors[:index], self._descriptors[index]).min())
            for index in range(1, len(self.items))
        ]
        return float(np.quantile(near, 0.25))


def select_farthest(descriptors: NDArray[np.float32], first: Sequence[int], most: int) -> list[int]:
    """Return up to `most` indices, `first` among them, each next one farthest from those before.

    Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    chosen = list(first)
    near = np.min([_distances(descriptors, descriptors[index]) for index in chosen], axis=0)
    near[chosen] = -1
    while len(chosen) < min(most, len(descriptors)):
        index = int(np.argmax(near))
        chosen.append(index)
        near = np.minimum(near, _distances(descriptors, descriptors[index]))
        near[chosen] = -1
    return sorted(chosen)


def median_spread(descriptors: NDArray[np.float32]) -> float:
    """Return the median distance of the items (N, D) from the one in their middle."""
    middle = int(np.argmin(_distances(descriptors, np.median(descriptors, axis=0))))
    return float(np.median(_distances(descriptors, descriptors[middle])))


def _distances(many: NDArray[np.float32], one: Descriptor) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.sqrt(((many - one) ** 2).sum(axis=1))
    return distances
