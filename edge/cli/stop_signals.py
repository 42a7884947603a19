"""Signals that stop a run cleanly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEATED_SIGNAL_S = 1.0
"""Signals within this time after the first one are ignored: `timeout` and other tools send two at once."""


@contextmanager
def stop_on_signals(stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Set `stop` on SIGINT, SIGTERM and SIGHUP while the block runs.

    A second SIGINT, later than `REPEATED_SIGNAL_S`, ends the process at once. SIGTERM and SIGHUP may repeat:
    they never cost a recording, and SIGKILL remains. After a stop the handlers stay installed when the block
    ends, because the repeated signal of such tools can arrive later; then any signal after
    `REPEATED_SIGNAL_S` has its usual effect.

    Args:
        stop: Event to set.
        clock: Monotonic clock in seconds.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    first_signal_s, is_over = 0.0, False

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_signal_s
        now = clock()
        first_signal_s = first_signal_s or now
        stop.set()
        if now - first_signal_s > REPEATED_SIGNAL_S and (is_over or number == signal.SIGINT):
            restore()
            signal.raise_signal(number)

    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handle)
    try:
        yield
    finally:
        is_over = True
        if not first_signal_s:
            restore()
