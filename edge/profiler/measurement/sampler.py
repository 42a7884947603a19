"""Latency sampling: open the candidates, warm them up until they are steady, then call them in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge.hardware.energy_meters import EnergyMeter
from edge.inference.engine_selection import EngineChoice
from edge.inference.interface.runner import Runner
from edge.profiler.measurement import memory
from edge.profiler.measurement.candidate import Candidate, InputFeed, find_candidates, golden_feeds
from edge.profiler.measurement.energy import measure_energy
from edge.profiler.measurement.statistics import GROUP_TURNS, is_steady, summarize_times
from edge.release.release import Release

CALLS_PER_TURN = 20
"""Calls of one candidate before the next one's turn, so that a drift of the clock affects all alike."""
SLOW_CALLS_PER_TURN, SLOW_MS = 4, 50.0
"""Calls per turn where a call of any candidate takes longer than `SLOW_MS`."""
POWER_S = 2.0
"""Time that `measure_latency` keeps a graph busy to measure its power."""
MIN_WARM_UP_TURNS = 2 * GROUP_TURNS
"""Turns of a warm-up unless a number of calls is asked for: as many as it takes to see that it is steady."""
MAX_WARM_UP_S = 5.0
"""Time after which a warm-up only completes its least number of calls. A candidate that still drifts then is
measured anyway, and marked."""

ClockNs = Callable[[], int]
"""Clock that latencies are read from, in nanoseconds; tests replace it."""


@dataclass
class CandidateMeasurement:
    """Measured values of one candidate.

    Attributes:
        candidate: The candidate.
        engine: Description of its runner.
        load_ms: Time to open the runner.
        first_call_ms: Time of the first call.
        rss_growth_bytes: Growth of the process's memory from before opening to after the first call.
        rss_peak_bytes: Highest memory of the process in that time.
        gpu_bytes: GPU memory that the runner allocated.
        warm_up: Calls of the warm-up.
        steady: The warm-up ended because the drift had stopped, and not because its time was over.
        times_ms: Latency of each call (rounds, calls per turn) in order; outliers are kept.
        turns_at_s: Start of each turn on the monotonic clock.
    """

    candidate: Candidate
    engine: str = ""
    load_ms: float = 0.0
    first_call_ms: float = 0.0
    rss_growth_bytes: int | None = None
    rss_peak_bytes: int | None = None
    gpu_bytes: int | None = None
    warm_up: int = 0
    steady: bool = False
    times_ms: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, CALLS_PER_TURN)))
    turns_at_s: list[float] = field(default_factory=list)


OpenCandidate = tuple[CandidateMeasurement, Runner]
"""Measurement of a candidate that is under way, and its open runner."""


@contextmanager
def open_candidates(
    candidates: Sequence[Candidate], feeds: Sequence[Sequence[InputFeed]]
) -> Iterator[list[OpenCandidate]]:
    """Open the candidates one after the other and call each once; close all of them in the end.

    Args:
        candidates: The candidates.
        feeds: Inputs of each candidate.
    """
    with ExitStack() as stack:
        opened = []
        for candidate, candidate_feeds in zip(candidates, feeds, strict=True):
            rss_before = memory.resident_bytes()
            memory.reset_peak()
            start_ns = time.perf_counter_ns()
            runner = candidate.open()
            loaded_ns = time.perf_counter_ns()
            stack.callback(runner.close)
            runner.infer(candidate_feeds[0])
            called_ns = time.perf_counter_ns()
            rss_after = memory.resident_bytes()
            measurement = CandidateMeasurement(
                candidate,
                engine=runner.description,
                load_ms=(loaded_ns - start_ns) / 1e6,
                first_call_ms=(called_ns - loaded_ns) / 1e6,
                rss_growth_bytes=None if rss_before is None or rss_after is None else rss_after - rss_before,
                rss_peak_bytes=memory.peak_bytes(),
                gpu_bytes=getattr(runner, "gpu_bytes", None),
            )
            opened.append((measurement, runner))
        yield opened


def choose_calls_per_turn(
    opened: Sequence[OpenCandidate],
    feeds: Sequence[Sequence[InputFeed]],
    clock_ns: ClockNs = time.perf_counter_ns,
) -> int:
    """Return the number of calls per turn: fewer where a call takes long."""
    slowest_ns = max(
        time_calls(runner, candidate_feeds, 1, clock_ns)[0]
        for (_, runner), candidate_feeds in zip(opened, feeds, strict=True)
    )
    return SLOW_CALLS_PER_TURN if slowest_ns / 1e6 > SLOW_MS else CALLS_PER_TURN


def warm_up(
    opened: OpenCandidate,
    feeds: Sequence[InputFeed],
    min_calls: int | None,
    calls_per_turn: int,
    clock_ns: ClockNs = time.perf_counter_ns,
) -> float:
    """Call a candidate until its latency is steady, and note in its measurement how that ended.

    Args:
        opened: The candidate.
        feeds: Its inputs.
        min_calls: Calls to make at least, None for `MIN_WARM_UP_TURNS` turns; after them, `MAX_WARM_UP_S`
            ends the warm-up.
        calls_per_turn: Calls per turn.
        clock_ns: Clock.

    Returns:
        The median of the last turn, in milliseconds.
    """
    measurement, runner = opened
    if min_calls is None:
        min_calls = MIN_WARM_UP_TURNS * calls_per_turn
    end_ns = clock_ns() + MAX_WARM_UP_S * 1e9
    medians_ns: list[float] = []
    while True:
        medians_ns.append(float(np.median(time_calls(runner, feeds, calls_per_turn, clock_ns))))
        measurement.warm_up += calls_per_turn
        measurement.steady = is_steady(medians_ns)
        if measurement.warm_up >= min_calls and (measurement.steady or clock_ns() > end_ns):
            return medians_ns[-1] / 1e6


def measure_rounds(
    opened: Sequence[OpenCandidate],
    feeds: Sequence[Sequence[InputFeed]],
    rounds: int,
    calls_per_turn: int,
    after_turn: Callable[[int], None] = lambda calls: None,
    clock_ns: ClockNs = time.perf_counter_ns,
) -> bool:
    """Measure rounds in which each candidate has one turn; each round begins with another candidate.

    A turn starts with one call that is not measured, because the other candidates have displaced the caches.

    Args:
        opened: The candidates.
        feeds: Inputs of each candidate.
        rounds: Number of rounds.
        calls_per_turn: Measured calls per turn.
        after_turn: Called after each turn with its number of calls, outside the measured time.
        clock_ns: Clock.

    Returns:
        False if Ctrl-C ended the measurement; the complete rounds are kept.

    Raises:
        KeyboardInterrupt: Ctrl-C came before the first round was complete.
    """
    turns_ns: list[list[list[int]]] = [[] for _ in opened]
    is_complete = True
    try:
        for first in range(rounds):
            for offset in range(len(opened)):
                index = (first + offset) % len(opened)
                measurement, runner = opened[index]
                runner.infer(feeds[index][0])  # not measured: it brings the data back into the caches
                # The monotonic clock, because the readings of the sensors have it, too.
                measurement.turns_at_s.append(time.monotonic())
                turns_ns[index].append(time_calls(runner, feeds[index], calls_per_turn, clock_ns))
                after_turn(calls_per_turn)
    except KeyboardInterrupt:
        is_complete = False
    complete_rounds = min(len(turns) for turns in turns_ns)
    if not complete_rounds:
        raise KeyboardInterrupt
    for (measurement, _), turns in zip(opened, turns_ns, strict=True):
        measurement.times_ms = np.asarray(turns[:complete_rounds], np.float64) / 1e6
        del measurement.turns_at_s[complete_rounds:]
    return is_complete


def time_calls(
    runner: Runner, feeds: Sequence[InputFeed], calls: int, clock_ns: ClockNs = time.perf_counter_ns
) -> list[int]:
    """Return the nanoseconds of each call, with the feeds in turn."""
    infer, count = runner.infer, len(feeds)  # looked up here, so that the lookup is not timed
    times_ns: list[int] = []
    for index in range(calls):
        feed = feeds[index % count]
        start_ns = clock_ns()
        infer(feed)
        times_ns.append(clock_ns() - start_ns)
    return times_ns


def measure_latency(
    release: Release,
    precision: str,
    engine: EngineChoice,
    threads: int,
    runs: int,
    min_warm_up: int,
    meter: EnergyMeter | None = None,
) -> dict[str, float]:
    """Return the latency of one graph alone, in stream form at batch 1.

    Args:
        release: The release.
        precision: Precision of its graph.
        engine: Engine to run it on.
        threads: Threads of the engine.
        runs: Measured calls, rounded up to whole turns.
        min_warm_up: Calls of the warm-up at least.
        meter: Meter for the power; None to leave it out.

    Returns:
        The values of `summarize_times`, and `power_w` if the meter gave one.

    Raises:
        InputError: The release has no such graph, or its engine cannot be opened.
    """
    candidates, _ = find_candidates(release, [precision], "stream", engine, threads)
    feeds = [golden_feeds(release, "stream", 1)]
    with open_candidates(candidates, feeds) as opened:
        warm_up(opened[0], feeds[0], min_warm_up, CALLS_PER_TURN)
        measure_rounds(opened, feeds, -(-runs // CALLS_PER_TURN), CALLS_PER_TURN)
        measurement, runner = opened[0]
        latency = summarize_times(measurement.times_ms)
        if meter is not None:
            with suppress(OSError):  # the meter has stopped answering: the latency counts without it
                latency["power_w"] = measure_energy(meter, 0.0, runner, feeds[0], 1, POWER_S).power_w
        return latency


class NullRunner:
    """Runner that computes nothing, to measure the overhead of the measurement."""

    description = "nothing"

    def infer(self, feed: object) -> dict[str, NDArray[np.float32]]:
        """Return no outputs."""
        return {}

    def reset(self, fps: float = 0.0) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def measure_overhead(clock_ns: ClockNs = time.perf_counter_ns) -> float:
    """Return the microseconds that the measurement adds to a call: the median of an empty call."""
    return float(np.median(time_calls(NullRunner(), [{}], 1000, clock_ns))) / 1e3
