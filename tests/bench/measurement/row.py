"""Rows of the benchmark, and the contestants that they are measured on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Contestant:
    """Something that takes turns with others.

    Attributes:
        take_turn: Makes a number of calls and returns the mean seconds of one, or another quantity of it.
        work: Work of a call, such as frames or multiply-accumulates. Values are given per work.
        repeats: A turn may have several calls. A process that is started has one.
        comparable: `--compare` compares it between commits: it runs this project's code and is positive.
    """

    take_turn: Callable[[int], float]
    work: float = 1.0
    repeats: bool = True
    comparable: bool = True


def timed(
    call: Callable[[], object],
    *,
    work: float = 1.0,
    comparable: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Contestant:
    """Return a contestant that is timed.

    The first of several calls is not timed: it finds the caches as the contestant before left them.

    Args:
        call: What is timed.
        work: Work of a call.
        comparable: `--compare` compares it.
        clock: Clock in seconds. With `time.process_time`, a process that waits for a core is not measured;
            it is for what costs one core its time, and does not sleep.
    """

    def take_turn(calls: int) -> float:
        if calls > 1:
            call()
        start_s = clock()
        for _ in range(calls):
            call()
        return (clock() - start_s) / calls

    return Contestant(take_turn, work, comparable=comparable)


def read_out(read: Callable[[], float], *, comparable: bool = True) -> Contestant:
    """Return a contestant whose call returns its own value, such as the memory of a process."""
    return Contestant(lambda _calls: read(), repeats=False, comparable=comparable)


@dataclass(frozen=True)
class Row:
    """A value that is judged: a quantity of a contestant, or its ratio to that of another.

    Attributes:
        label: What is measured.
        of: The contestant.
        over: The contestant to divide by; None gives the quantity itself.
        unit: Unit of the value.
        scale: Factor from seconds (or from the ratio) to the unit.
        bound: The bound that the value must keep; None for none.
        at_least: High values are good, and the bound is a lower one; else an upper one.
        goal: What the value shall become. It is printed beside the value, and fails nothing.
        load_flatters: Load of the machine makes the value better, for example because PyTorch has more
            threads than we. Such a row is not called kept on a busy machine.
    """

    label: str
    of: str
    over: str | None = None
    unit: str = "x"
    scale: float = 1.0
    bound: float | None = None
    at_least: bool = True
    goal: float | None = None
    load_flatters: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Contestants that take turns, and the rows that are judged on these turns.

    Attributes:
        name: Name, unique in its theme.
        budget_s: Time limit with opening the contestants, which is not interrupted.
        rows: The rows.
        open: Opens the contestants, in a folder of their own.
    """

    name: str
    budget_s: float
    rows: Sequence[Row]
    open: Callable[[Path], AbstractContextManager[Mapping[str, Contestant]]]


@dataclass(frozen=True)
class Reading:
    """A value that is measured once.

    Attributes:
        label: What was measured.
        value: The value.
        unit: Its unit; "" for none.
        bound: The bound that the value must keep; None for none.
        at_least: High values are good, and the bound is a lower one; else an upper one.
        spread: Assumed relative spread of a value that was measured once, from repeated runs on one machine:
            the interval is value / (1 + spread) to value * (1 + spread). 0 for counts and sizes.
    """

    label: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = True
    spread: float = 0.25


@dataclass(frozen=True)
class Readings:
    """Values that are measured once, because measuring them takes long or always gives the same.

    Attributes:
        name: Name, unique in its theme.
        budget_s: Time that is expected on two cores. Nothing is interrupted.
        read: Measures in a folder of its own.
    """

    name: str
    budget_s: float
    read: Callable[[Path], Iterator[Reading]]


AnyBenchmark = Benchmark | Readings


def print_note(text: str) -> None:
    """Print a line that explains the values around it."""
    print(f"    {text}", flush=True)
