"""Selection of windows that differ from one another, in one pass and constant memory."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Descriptor = NDArray[np.float32]

THUMBNAIL_SIDE = 4
ORIENTATIONS = 8


def describe_window(window: NDArray[np.uint8]) -> Descriptor:
    """Return the descriptor of a window (length, height, width, 3): 57 numbers, most between 0 and 1.

    It holds a thumbnail (4, 4, 3) of the last frame, the strength of its edges in 8 orientations, and its
    difference from the frame before. The Euclidean distance of two descriptors measures how much windows
    differ.
    """
    last = window[-1]
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(last, size, interpolation=cv2.INTER_AREA) / np.float32(255)
    grey = cv2.cvtColor(last, cv2.COLOR_BGR2GRAY)
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *axis, ksize=3) / 1020 for axis in ((1, 0), (0, 1)))
    angle = (np.arctan2(dy, dx) % np.pi * (ORIENTATIONS / np.pi)).astype(int) % ORIENTATIONS
    edges = np.bincount(angle.ravel(), np.hypot(dx, dy).ravel(), ORIENTATIONS) / grey.size * ORIENTATIONS
    change = cv2.absdiff(last, window[-2]).mean() / 255 if len(window) > 1 else 0.0
    return np.concatenate([thumbnail.ravel(), edges, [change]]).astype(np.float32)


class DiverseSample:
    """A limited number of items that differ from one another, out of any number of items.

    After Charikar et al., "Incremental clustering", STOC 1997: an item is kept if its distance to all kept
    items exceeds a radius. When there are too many, the radius grows until a quarter is dropped.

    Args:
        max_items: Limit for the items kept.

    Attributes:
        items: The kept items (number, slot), in order.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._radius = -1.0
        self._descriptors = np.empty((max_items + 1, 0), np.float32)
        self.items: list[tuple[int, int]] = []

    @property
    def descriptors(self) -> NDArray[np.float32]:
        """Descriptors of the kept items, (N, D)."""
        return self._descriptors[: len(self.items)]

    def wants(self, descriptor: Descriptor) -> bool:
        """Return whether an item differs enough from the kept ones."""
        if not self.items:
            self._descriptors = np.empty((self._max_items + 1, descriptor.size), np.float32)
            return True
        return float(_distances(self.descriptors, descriptor).min()) > self._radius

    def add(self, descriptor: Descriptor, item: tuple[int, int]) -> list[tuple[int, int]]:
        """Keep an item that is wanted, and return the items that were dropped for it."""
        self._descriptors[len(self.items)] = descriptor
        self.items.append(item)
        dropped: list[tuple[int, int]] = []
        while len(self.items) > self._max_items:
            self._radius = self._next_radius()
            kept: list[int] = []
            for index in range(len(self.items)):
                distances = _distances(self._descriptors[kept], self._descriptors[index])
                if not kept or float(distances.min()) > self._radius:
                    kept.append(index)
            dropped += [item for index, item in enumerate(self.items) if index not in set(kept)]
            self._descriptors[: len(kept)] = self._descriptors[kept]
            self.items = [self.items[index] for index in kept]
        return dropped

    def _next_radius(self) -> float:
        """Return the lower quartile of the items' distances to the nearest item before them."""
        nearest = [
            float(_distances(self._descriptors[:index], self._descriptors[index]).min())
            for index in range(1, len(self.items))
        ]
        return float(np.quantile(nearest, 0.25))


def select_farthest(descriptors: NDArray[np.float32], first: Sequence[int], max_items: int) -> list[int]:
    """Return sorted indices, starting from `first`, each next one farthest from those selected before.

    Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.

    Args:
        descriptors: Descriptors of all items (N, D).
        first: Indices that are selected in any case, at least one.
        max_items: Limit for the indices.
    """
    selected = list(first)
    nearest = np.min([_distances(descriptors, descriptors[index]) for index in selected], axis=0)
    nearest[selected] = -1
    while len(selected) < min(max_items, len(descriptors)):
        index = int(np.argmax(nearest))
        selected.append(index)
        nearest = np.minimum(nearest, _distances(descriptors, descriptors[index]))
        nearest[selected] = -1
    return sorted(selected)


def median_spread(descriptors: NDArray[np.float32]) -> float:
    """Return the median distance of the items (N, D) from the item nearest to their median."""
    centre = int(np.argmin(_distances(descriptors, np.median(descriptors, axis=0))))
    return float(np.median(_distances(descriptors, descriptors[centre])))


def _distances(descriptors: NDArray[np.float32], descriptor: Descriptor) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.sqrt(((descriptors - descriptor) ** 2).sum(axis=1))
    return distances
