from __future__ import annotations

import threading

from edge.pipeline.bounded_queue import BoundedQueue


def test_queue_drops_the_oldest_item_when_full_and_counts_it() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1, drop_oldest=True)
    assert [queue.put(item) for item in range(4)] == [0, 1, 1, 1]
    assert queue.get() == 3
    assert queue.put(4) == 0
    queue.finish()
    assert queue.put(5) is None
    assert [queue.get(), queue.get()] == [4, None]


def test_full_queue_blocks_its_producer_and_loses_nothing() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    dropped: list[int | None] = []

    def produce() -> None:
        dropped.extend(queue.put(item) for item in range(200))
        queue.finish()

    producer = threading.Thread(target=produce)
    producer.start()
    items = list(iter(queue.get, None))
    producer.join()
    assert items == list(range(200))
    assert dropped == [0] * 200


def test_abort_wakes_waiting_threads_and_returns_the_number_of_dropped_items() -> None:
    full: BoundedQueue[int] = BoundedQueue(1)
    empty: BoundedQueue[int] = BoundedQueue(1)
    full.put(1)
    outcomes: list[int | None] = []
    waiting = [
        threading.Thread(target=lambda: outcomes.append(full.put(2))),
        threading.Thread(target=lambda: outcomes.append(empty.get())),
    ]
    for thread in waiting:
        thread.start()
    assert (full.abort(), empty.abort()) == (1, 0)
    for thread in waiting:
        thread.join(5)
    assert outcomes == [None, None]
