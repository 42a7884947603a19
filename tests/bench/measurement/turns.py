"""Turns of contestants in random order, until all that is asked is decided or the time is over."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.measurement.interval import median_interval, ratio_interval
from tests.bench.measurement.row import Contestant

TURN_S = 0.004
"""Least length of a turn: short calls are repeated."""
LONGEST_REPEATED_TURN_S = 0.05
"""Length up to which short calls are repeated, so that their turn is as long as that of a slow contestant."""
LEAST_CALL_S = 1e-7
"""Least time of a call that is assumed, for clocks with long steps."""
FIRST_LOOK, NEXT_LOOK = 8, 1.15
"""Blocks before the first look at the intervals, and growth until the next one. The intervals hold at any
time, so that this is a matter of processor time alone."""
MAX_BLOCKS = 800
"""Blocks after which a benchmark ends: more would narrow its intervals little."""


@dataclass
class Measurement:
    """Values of contestants that took turns.

    Attributes:
        values: Values of each contestant per work, one per block. Those after the last whole block do not
            count.
        calls: Calls in a turn of each contestant.
        seconds: Time that the measurement took.
    """

    values: dict[str, list[float]]
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def blocks(self) -> int:
        """Return the number of whole blocks."""
        return min(map(len, self.values.values()))

    def estimate(self, of: str, over: str | None) -> tuple[float, float, float]:
        """Return a contestant's median value, or median ratio, with the ends of its interval of 95 %."""
        values = self.values[of][: self.blocks]
        if over is None:
            return statistics.median(values), *median_interval(values)
        log_ratios = [math.log(a / b) for a, b in zip(values, self.values[over][: self.blocks], strict=True)]
        low, high = ratio_interval(log_ratios)
        return math.exp(statistics.median(log_ratios)), math.exp(low), math.exp(high)


def measure_in_turns(
    contestants: Mapping[str, Contestant],
    is_decided: Callable[[Measurement], bool],
    limit_s: float,
    *,
    on_block: Callable[[], object] = lambda: None,
    seed: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Let the contestants take turns, and return their values.

    A block has a turn of each contestant, in an order that is drawn for it. Turns of a few milliseconds meet
    nearly the same machine, and the order decides by chance whom a burst of load meets; see `interval`.

    Args:
        contestants: The contestants by name.
        is_decided: Whether the values so far suffice.
        limit_s: Time after which no turn begins, apart from those of the first block. A block that is cut off
            does not count.
        on_block: Called after each block.
        seed: Seed of the order; None for another one each time.
        clock: Clock in seconds.
    """
    start_s = clock()
    measurement = Measurement({name: [] for name in contestants}, _choose_calls(contestants))
    order, draw = list(contestants), random.Random(seed)  # noqa: S311 - a fair coin, not a secret
    next_look = FIRST_LOOK
    while measurement.blocks < MAX_BLOCKS:
        draw.shuffle(order)
        for name in order:
            if measurement.blocks and clock() - start_s >= limit_s:
                measurement.seconds = clock() - start_s
                return measurement
            contestant = contestants[name]
            value = contestant.take_turn(measurement.calls[name]) / contestant.work
            measurement.values[name].append(value)
        on_block()
        if measurement.blocks >= next_look:
            next_look = max(next_look + 1, round(next_look * NEXT_LOOK))
            if is_decided(measurement):
                break
    measurement.seconds = clock() - start_s
    return measurement


def _choose_calls(contestants: Mapping[str, Contestant]) -> dict[str, int]:
    """Return the calls per turn: turns of all contestants shall take equally long.

    What can be repeated is called for it, which also warms it up; the fastest of three calls counts, and a
    slow one suffices. What cannot, such as the start of a process, is not called: each call is a value of its
    own.
    """
    seconds = {}
    for name, contestant in contestants.items():
        if contestant.repeats:
            seconds[name] = max(contestant.take_turn(1), LEAST_CALL_S)
            for _ in range(2):
                if seconds[name] < LONGEST_REPEATED_TURN_S:
                    seconds[name] = max(min(seconds[name], contestant.take_turn(1)), LEAST_CALL_S)
    longest_s = max(seconds.values(), default=0.0)
    turn_s = min(max(TURN_S, longest_s), LONGEST_REPEATED_TURN_S)
    return {name: max(1, round(turn_s / seconds[name])) if name in seconds else 1 for name in contestants}
