from __future__ import annotations

import threading

from edge.pipeline.bounded_queue import BoundedQueue


def test_the_newest_wins_and_drops_are_counted() -> None:
    slot: BoundedQueue[int] = BoundedQueue(1, newest=True)
    assert [slot.put(item) for item in range(4)] == [0, 1, 1, 1]
    assert slot.get() == 3
    assert slot.put(4) == 0
    slot.end()
    assert slot.put(5) is None
    assert [slot.get(), slot.get()] == [4, None]


def test_a_full_channel_holds_its_writer_back_and_loses_nothing() -> None:
    channel: BoundedQueue[int] = BoundedQueue(2)
    given: list[int | None] = []

    def write() -> None:
        given.extend(channel.put(item) for item in range(200))
        channel.end()

    writer = threading.Thread(target=write)
    writer.start()
    taken = list(iter(channel.get, None))
    writer.join()
    assert taken == list(range(200))
    assert given == [0] * 200


def test_closing_wakes_whoever_waits_and_tells_what_is_thrown_away() -> None:
    full: BoundedQueue[int] = BoundedQueue(1)
    empty: BoundedQueue[int] = BoundedQueue(1)
    full.put(1)
    seen: list[int | None] = []
    waiting = [
        threading.Thread(target=lambda: seen.append(full.put(2))),
        threading.Thread(target=lambda: seen.append(empty.get())),
    ]
    for thread in waiting:
        thread.start()
    assert (full.close(), empty.close()) == (1, 0)
    for thread in waiting:
        thread.join(5)
    assert seen == [None, None]
