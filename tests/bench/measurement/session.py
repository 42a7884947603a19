"""A run of benchmarks: progress with the time that remains, verdicts as they come, and their history."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from edge.core.errors import InputError
from tests.bench.measurement.conditions import Conditions, ConditionsWatch
from tests.bench.measurement.history import Commit, History
from tests.bench.measurement.row import AnyBenchmark, Benchmark
from tests.bench.measurement.turns import measure_in_turns
from tests.bench.measurement.verdict import Verdict, confirm, is_decided, judge_reading, judge_row

Plan = Mapping[str, Sequence[AnyBenchmark]]
"""Benchmarks by theme."""


class Progression:
    """Bar with the time that remains at most, on a terminal; elsewhere a line per benchmark.

    Args:
        total_s: Sum of all budgets.
    """

    def __init__(self, total_s: float) -> None:
        self._console = Console()
        self._total_s, self._passed_s, self._started_s, self._budget_s = total_s, 0.0, 0.0, 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total_s, left="")

    @contextmanager
    def step(self, name: str, budget_s: float) -> Iterator[None]:
        """Announce a step. What it does not use of its budget is taken off what remains."""
        self._started_s, self._budget_s = time.monotonic(), budget_s
        left = format_seconds(self._total_s - self._passed_s)
        print(f"{name} (at most {format_seconds(budget_s)}, all: at most {left} left)", flush=True)
        self._bar.update(self._task, description=name)
        self.update()
        yield
        self._passed_s += budget_s
        self.update()

    def add(self, budget_s: float) -> None:
        """Add a step that was not planned."""
        self._total_s += budget_s
        self._bar.update(self._task, total=self._total_s)

    def update(self) -> None:
        """Show the time that remains."""
        used_s = min(time.monotonic() - self._started_s, self._budget_s) if self._budget_s else 0.0
        done_s = min(self._passed_s + used_s, self._total_s)
        left = f"at most {format_seconds(self._total_s - done_s)} left"
        self._bar.update(self._task, completed=done_s, left=left)

    def __enter__(self) -> Progression:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def format_seconds(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def budget_of(plan: Plan) -> float:
    """Return the sum of the budgets in seconds."""
    return sum(benchmark.budget_s for benchmarks in plan.values() for benchmark in benchmarks)


def run_benchmarks(plan: Plan, commit: Commit, history: History) -> dict[str, list[Verdict]]:
    """Run the benchmarks, print and save each verdict when it is there, and return them by theme.

    A benchmark that lacks something, such as a package, is left out with a line. One with a broken bound is
    measured again at the end. For a minute, a host may run two virtual cores on one physical core, and no
    counter of the machine shows it.
    """
    verdicts: dict[str, list[Verdict]] = {}
    with Progression(budget_of(plan)) as progression:
        broken = []
        for theme, benchmarks in plan.items():
            verdicts[theme] = []
            for benchmark in benchmarks:
                judged = _run(theme, benchmark, progression, commit, history)
                verdicts[theme] += judged
                if isinstance(benchmark, Benchmark) and any(each.answer == "broken" for each in judged):
                    broken.append((theme, benchmark))
        for theme, benchmark in broken:
            progression.add(benchmark.budget_s)
            second = {
                each.label: each for each in _run(theme, benchmark, progression, commit, history, "again, ")
            }
            verdicts[theme] = [
                confirm(first, second[first.label])
                if first.answer == "broken" and first.label in second
                else first
                for first in verdicts[theme]
            ]
    return verdicts


def _run(
    theme: str,
    benchmark: AnyBenchmark,
    progression: Progression,
    commit: Commit,
    history: History,
    prefix: str = "",
) -> list[Verdict]:
    """Measure a benchmark, print its verdicts after a heading with a prefix, save and return them."""
    with progression.step(f"{prefix}{theme}: {benchmark.name}", benchmark.budget_s):
        try:
            judged, conditions, how = _measure(benchmark, progression)
        except InputError as error:
            print(f"  not measured: {error}", flush=True)
            return []
    for verdict in judged:
        change = history.compare(theme, verdict, conditions)
        print(f"  {verdict.describe()}{f'; {change}' if change else ''}", flush=True)
    print(f"    {how}; {conditions.describe()}", flush=True)
    history.append(commit, theme, judged, conditions)
    return judged


def _measure(benchmark: AnyBenchmark, progression: Progression) -> tuple[list[Verdict], Conditions, str]:
    """Return the verdicts, the conditions, and how they were measured in words."""
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(benchmark, Benchmark):
            watch = ConditionsWatch()
            readings = list(benchmark.read(Path(folder)))
            conditions = watch.conditions()
            how = f"once, in {time.monotonic() - start_s:.0f} s"
            return [judge_reading(reading, conditions) for reading in readings], conditions, how
        with benchmark.open(Path(folder)) as contestants:
            watch = ConditionsWatch()

            def on_block() -> None:
                watch.sample()
                progression.update()

            measurement = measure_in_turns(
                contestants,
                lambda measured: all(is_decided(row, measured) for row in benchmark.rows),
                benchmark.budget_s - (time.monotonic() - start_s),
                on_block=on_block,
            )
            conditions = watch.conditions()
    how = f"{measurement.blocks} blocks in {measurement.seconds:.1f} s"
    return [judge_row(row, measurement, conditions) for row in benchmark.rows], conditions, how
