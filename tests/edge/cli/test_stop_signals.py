from __future__ import annotations

import signal
import threading

import pytest

from edge.cli.stop_signals import REPEATED_SIGNAL_S, stop_on_signals
from tests.support.clocks import ManualClock


@pytest.mark.parametrize("is_over", [False, True])
def test_late_second_interrupt_ends_the_run_at_once(is_over: bool) -> None:
    previous, stop, reached = signal.getsignal(signal.SIGINT), threading.Event(), list[str]()
    clock = ManualClock()

    def run() -> None:
        with stop_on_signals(stop, clock):
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            if not is_over:
                clock.advance(REPEATED_SIGNAL_S + 0.1)
                signal.raise_signal(signal.SIGINT)
        reached.append("over")
        signal.raise_signal(signal.SIGINT)  # a repeated signal
        clock.advance(REPEATED_SIGNAL_S + 0.1)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert stop.is_set()
    assert signal.getsignal(signal.SIGINT) is previous
    assert reached == ["over"] * is_over
