"""Waiting for conditions that other threads bring about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> bool:
    """Poll a condition until it is true or the time is over; return whether it is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return bool(value)


def aerogaze_threads() -> list[threading.Thread]:
    """Return the running threads of the pipeline and its sinks."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("aerogaze")]
