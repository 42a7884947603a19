"""Clocks that tests move themselves, so that no outcome depends on the speed of the machine."""

from __future__ import annotations


class ManualClock:
    """Clock in seconds that moves by `sleep` and `advance`, and by a step each time it is read."""

    def __init__(self, now_s: float = 1000.0, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = now_s, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds

    sleep = advance


class SteppingClock:
    """Clock in nanoseconds that moves by one step each time it is read."""

    def __init__(self, step_ns: int) -> None:
        self.step_ns, self.now_ns = step_ns, 0

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns
