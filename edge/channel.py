"""What two threads pass things through: in order and bounded, or the newest alone."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """Up to `size` items between a writer and a reader, each on a thread of its own.

    Where there is no place, `put` waits for one; or, with `newest`, drops the oldest item. A channel of
    size 1 that keeps the newest is the latest-wins slot of three buffers: the writer fills one, one is
    ready, the reader holds one.
    """

    def __init__(self, size: int, newest: bool = False) -> None:
        self._size, self._newest = size, newest
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, item: Item) -> int | None:
        """Pass an item on; return how many older ones were dropped for it, or None if the channel ended."""
        with self._changed:
            while len(self._items) == self._size and not self._newest and not self._ended:
                self._changed.wait()
            if self._ended:
                return None
            dropped = len(self._items) == self._size
            if dropped:
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
            return int(dropped)

    def get(self) -> Item | None:
        """Wait for the oldest item and return it; None once the channel has ended and is empty."""
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def empty(self) -> bool:
        """Say whether nothing waits inside."""
        return not self._items

    def end(self) -> None:
        """Take no more items; those inside can still be had."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> int:
        """End, and throw away what is inside; return how many items that were."""
        with self._changed:
            left = len(self._items)
            self._items.clear()
            self._ended = True
            self._changed.notify_all()
            return left
