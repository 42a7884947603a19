"""Bounded queue between one producer and one consumer thread."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Queue of up to `size` items between one producer and one consumer thread.

    With size 1 and `drop_oldest`, this is triple buffering: the producer fills one item, one is ready, and
    the consumer holds one.

    Args:
        size: Maximum number of items.
        drop_oldest: Drop the oldest item when the queue is full, instead of blocking the producer.
    """

    def __init__(self, size: int, drop_oldest: bool = False) -> None:
        self._size, self._drop_oldest = size, drop_oldest
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._is_finished = False
        self._item_added, self._slot_freed = _BinarySemaphore(), _BinarySemaphore()

    def put(self, item: Item) -> int | None:
        """Add an item; return the number of items dropped for it, or None if the queue was finished."""
        while True:
            with self._lock:
                if self._is_finished:
                    return None
                is_full = len(self._items) == self._size
                if not is_full or self._drop_oldest:
                    if is_full:
                        self._items.popleft()
                    self._items.append(item)
                    break
            self._slot_freed.acquire()
        self._item_added.release()
        return int(is_full)

    def get(self, wait: bool = True) -> Item | None:
        """Remove and return the oldest item.

        Args:
            wait: Block while the queue is empty and not finished.

        Returns:
            The item; None if the queue is empty and either finished or `wait` is false.
        """
        while True:
            with self._lock:
                if self._items:
                    item = self._items.popleft()
                    break
                if self._is_finished or not wait:
                    return None
            self._item_added.acquire()
        self._slot_freed.release()
        return item

    def is_empty(self) -> bool:
        """Return whether the queue has no items."""
        return not self._items

    def finish(self) -> None:
        """Accept no more items; the remaining ones can still be taken."""
        with self._lock:
            self._is_finished = True
        self._item_added.release()
        self._slot_freed.release()

    def abort(self) -> int:
        """Finish the queue and drop its items; return their number."""
        with self._lock:
            self._is_finished = True
            dropped = len(self._items)
            self._items.clear()
        self.finish()
        return dropped


class _BinarySemaphore:
    """Wakes one thread, now or when it starts to wait.

    A bare lock instead of `threading.Condition`: a thread that a condition wakes finds the condition's lock
    still held and has to sleep a second time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def release(self) -> None:
        with suppress(RuntimeError):  # released already
            self._lock.release()

    def acquire(self) -> None:
        self._lock.acquire()
