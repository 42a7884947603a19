"""What two threads pass things through: in order and bounded, or the newest alone."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Up to `size` items between one thread that writes and one that reads.

    Where there is no place, `put` waits for one; or, with `newest`, drops the oldest item. A channel of
    size 1 that keeps the newest is the latest-wins slot of three buffers: the writer fills one, one is
    ready, the reader holds one.
    """

    def __init__(self, size: int, newest: bool = False) -> None:
        self._size, self._newest = size, newest
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._ended = False
        self._filled, self._freed = _Signal(), _Signal()

    def put(self, item: Item) -> int | None:
        """Pass an item on; return how many older ones were dropped for it, or None if the channel ended."""
        while True:
            with self._lock:
                if self._ended:
                    return None
                full = len(self._items) == self._size
                if not full or self._newest:
                    if full:
                        self._items.popleft()
                    self._items.append(item)
                    break
            self._freed.wait()
        self._filled.set()
        return int(full)

    def get(self, wait: bool = True) -> Item | None:
        """Return the oldest item; None once the channel has ended, or, without `wait`, while it is empty."""
        while True:
            with self._lock:
                if self._items:
                    item = self._items.popleft()
                    break
                if self._ended or not wait:
                    return None
            self._filled.wait()
        self._freed.set()
        return item

    def empty(self) -> bool:
        """Say whether nothing waits inside."""
        return not self._items

    def end(self) -> None:
        """Take no more items; those inside can still be had."""
        with self._lock:
            self._ended = True
        self._filled.set()
        self._freed.set()

    def close(self) -> int:
        """End, and throw away what is inside; return how many items that were."""
        with self._lock:
            self._ended = True
            left = len(self._items)
            self._items.clear()
        self.end()
        return left


class _Signal:
    """Wakes one thread, now or when it comes to wait.

    A bare lock, not a Condition: there the woken thread finds the lock still held, and sleeps once more.
    """

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._held.acquire()

    def set(self) -> None:
        with suppress(RuntimeError):  # it is set
            self._held.release()

    def wait(self) -> None:
        self._held.acquire()
