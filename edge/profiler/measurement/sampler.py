"""The measuring: load, warm up until the drift stops, then runs of every contender in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.hardware.energy_meters import Meter
from edge.inference.engine_selection import EngineChoice
from edge.inference.interface.runner import Runner
from edge.profiler.measurement import memory
from edge.profiler.measurement.candidate import Candidate, InputFeed, find_candidates, golden_feeds
from edge.profiler.measurement.energy import energy
from edge.profiler.measurement.statistics import is_steady, summarise
from edge.release.manifest import Release

TURN = 20
"""Runs of one contender before the next one's turn: a drift of the clock hits all alike."""
SHORT_TURN, SLOW_MS = 4, 50.0
"""Of contenders one of which takes longer than this for a call."""
BUSY_S = 2.0
"""How long a graph is kept busy for its power."""
MOST_WARM_UP_S = 5.0
"""Of one contender. What drifts for longer is measured as it is, and marked."""


@dataclass
class CandidateMeasurement:
    """What was seen of one contender.

    `times_ms` (rounds, calls): the call alone, in the order of time; outliers kept. `steady`: its warm-up of
    `warm_up` calls ended because the drift had stopped, not because time was up. `turns_at_s`: the beginning
    of each turn, on the monotonic clock.
    """

    contender: Candidate
    engine: str = ""
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    rss_growth_bytes: int | None = None
    rss_peak_bytes: int | None = None
    gpu_bytes: int | None = None
    warm_up: int = 0
    steady: bool = False
    times_ms: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, TURN)))
    turns_at_s: list[float] = field(default_factory=list)


@contextmanager
def opened(
    contenders: Sequence[Candidate], feeds: Sequence[Sequence[InputFeed]]
) -> Iterator[list[tuple[CandidateMeasurement, Runner]]]:
    """Open contenders one after the other and call each once; all are closed in the end.

    Memory is what the process grew by meanwhile, its highest point, and what a runner took of the GPU's.
    """
    with ExitStack() as stack:
        found = []
        for contender, own in zip(contenders, feeds, strict=True):
            before = memory.resident()
            memory.forget_peak()
            started = time.perf_counter_ns()
            runner = contender.open()
            loaded = time.perf_counter_ns()
            stack.callback(runner.close)
            runner.infer(own[0])
            called = time.perf_counter_ns()
            seen = CandidateMeasurement(contender, runner.description)
            seen.load_ms, seen.first_call_ms = (loaded - started) / 1e6, (called - loaded) / 1e6
            after = memory.resident()
            seen.rss_growth_bytes = None if before is None or after is None else after - before
            seen.rss_peak_bytes = memory.peak()
            seen.gpu_bytes = getattr(runner, "gpu_bytes", None)
            found.append((seen, runner))
        yield found


def turn_of(found: Sequence[tuple[CandidateMeasurement, Runner]], feeds: Sequence[Sequence[InputFeed]]) -> int:
    """Return how many calls a turn has: fewer where a call takes long."""
    ns: list[int] = []
    for (_, runner), own in zip(found, feeds, strict=True):
        timed(runner, own, 1, ns)
    return SHORT_TURN if max(ns) / 1e6 > SLOW_MS else TURN


def warm_up(seen: CandidateMeasurement, runner: Runner, feeds: Sequence[InputFeed], least: int, turn: int) -> float:
    """Call until the drift has stopped, `least` times or more, for `MOST_WARM_UP_S` at most.

    Returns the median of the last turn, ms.
    """
    end = time.monotonic() + MOST_WARM_UP_S
    turns: list[float] = []
    while True:
        ns: list[int] = []
        timed(runner, feeds, turn, ns)
        turns.append(float(np.median(ns)))
        seen.warm_up += turn
        seen.steady = is_steady(turns)
        if seen.warm_up >= least and (seen.steady or time.monotonic() > end):
            return turns[-1] / 1e6


def take_turns(
    found: Sequence[tuple[CandidateMeasurement, Runner]],
    feeds: Sequence[Sequence[InputFeed]],
    rounds: int,
    turn: int,
    between: Callable[[int], None] = lambda runs: None,
) -> bool:
    """Measure rounds in which every contender has a turn, each round beginning with another one.

    A turn starts with one call that is not measured: it brings back what the others drove out of the
    caches. `between` is called after each turn with its runs, outside all that is timed. Returns False if
    Ctrl-C ended it; whole rounds are kept.

    Raises:
        KeyboardInterrupt: before the first round was whole.
    """
    turns: list[list[list[int]]] = [[] for _ in found]
    whole = True
    try:
        for number in range(rounds):
            for place in range(len(found)):
                index = (number + place) % len(found)
                runner, ns = found[index][1], []  # type: tuple[Runner, list[int]]
                runner.infer(feeds[index][0])
                found[index][0].turns_at_s.append(time.monotonic())
                timed(runner, feeds[index], turn, ns)
                turns[index].append(ns)
                between(turn)
    except KeyboardInterrupt:
        whole = False
    done = min(len(one) for one in turns)
    if not done:
        raise KeyboardInterrupt
    for (seen, _), one in zip(found, turns, strict=True):
        seen.times_ms = np.asarray(one[:done], np.float64) / 1e6
        del seen.turns_at_s[done:]
    return whole


def timed(runner: Runner, feeds: Sequence[InputFeed], runs: int, ns: list[int]) -> None:
    """Append the nanoseconds of each of `runs` calls."""
    clock, infer, count = time.perf_counter_ns, runner.infer, len(feeds)
    for index in range(runs):
        feed = feeds[index % count]
        before = clock()
        infer(feed)
        ns.append(clock() - before)


def measure_latency(
    release: Release,
    precision: str,
    engine: EngineChoice,
    threads: int,
    runs: int,
    least_warm_up: int,
    meter: Meter | None = None,
) -> dict[str, float]:
    """Return the latency of one graph by itself, in stream form at batch 1: see `statistics.summarise`.

    With a meter also `power_w`, while it is kept busy for `BUSY_S`; not if the meter falls silent.

    Raises:
        InputError: the release has no such graph, or its engine refuses.
    """
    contenders, _ = find_candidates(release, [precision], "stream", engine, threads)
    feeds = [golden_feeds(release, "stream", 1)]
    with opened(contenders, feeds) as found:
        warm_up(*found[0], feeds[0], least_warm_up, TURN)
        take_turns(found, feeds, -(-runs // TURN), TURN)
        told = summarise(found[0][0].times_ms)
        if meter is not None:
            with suppress(OSError):
                told["power_w"] = energy(meter, 0.0, found[0][1], feeds[0], 1, BUSY_S).power_w
        return told


class NullRunner:
    """A runner that does nothing: its times are what measuring adds."""

    description = "nothing"

    def infer(self, feed: object) -> dict[str, NDArray[np.float32]]:
        """Return nothing."""
        return {}

    def reset(self, fps: float = 0.0) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def overhead_us() -> float:
    """Return what measuring adds to a call: the median time of nothing."""
    ns: list[int] = []
    timed(NullRunner(), [{}], 1000, ns)
    return float(np.median(ns)) / 1e3
