"""Comparison of two commits: their workers take turns, and each contestant gets a verdict."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tests.bench.compare.remote import Worker, WorkerEndError, WorkerError, copy_benchmarks
from tests.bench.compare.worktrees import ROOT, Checkout, check_out, uncommitted_files
from tests.bench.measurement.conditions import ConditionsWatch
from tests.bench.measurement.row import Benchmark, Contestant
from tests.bench.measurement.session import Plan, Progression, format_seconds
from tests.bench.measurement.turns import Measurement, measure_in_turns

DEFAULT_MARGIN = 0.03
"""Relative difference up to which two commits count as the same. The same code in two processes can differ by
two percent: their memory lies elsewhere."""
SIDES = "A", "B"
BUDGET_FACTOR = 2
"""A comparison may take so many times the budget of its benchmark: there are two to open and to measure."""

Answer = Literal["faster", "slower", "the same", "undecided"]


class Difference(NamedTuple):
    """Value of commit B over that of commit A, with its interval of 95 %."""

    ratio: float
    low: float
    high: float

    def answer(self, margin: float) -> Answer:
        """Return whether B is surely slower or faster by more than the margin, or surely within it."""
        least, most = 1 / (1 + margin), 1 + margin
        if self.low > most:
            return "slower"
        if self.high < least:
            return "faster"
        return "the same" if least <= self.low and self.high <= most else "undecided"

    def describe(self, margin: float) -> str:
        """Return the difference as a sentence."""
        answer = self.answer(margin)
        within = f" within {margin:.0%}" if answer == "the same" else ""
        return f"{answer}{within}, B takes {self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}) times A's"


def compare_commits(a: str, b: str, plan: Plan, margin: float, root: Path = ROOT) -> int:
    """Compare two commits on the benchmarks of a plan, print the verdicts, and return the exit code.

    Returns:
        0; 1 if something is slower in B; 2 if a worker ended.

    Raises:
        InputError: A commit is unknown, or git fails.
    """
    names = {
        f"{theme}: {benchmark.name}": (theme, benchmark)
        for theme, benchmarks in plan.items()
        for benchmark in benchmarks
        if isinstance(benchmark, Benchmark)  # what is measured once is compared by its history
    }
    total_s = BUDGET_FACTOR * sum(benchmark.budget_s for _, benchmark in names.values())
    if changed := uncommitted_files(root):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        print(f"note: changes that are in no commit are not measured: {changed[0]}{more}")
    answers: Counter[str] = Counter()
    with (
        check_out([a, b], root) as checkouts,
        tempfile.TemporaryDirectory() as bench,
        Progression(total_s) as progression,
    ):
        copy_benchmarks(Path(bench), root)
        sides = ", ".join(f"{side} {each.name}" for side, each in zip(SIDES, checkouts, strict=True))
        print(f"{sides}; at most {format_seconds(total_s)}", flush=True)
        pair = _Pair(dict(zip(SIDES, checkouts, strict=True)), Path(bench))
        try:
            for name, (theme, benchmark) in names.items():
                budget_s = BUDGET_FACTOR * benchmark.budget_s
                with progression.step(name, budget_s):
                    answers += pair.compare(theme, benchmark.name, budget_s, margin, progression)
        finally:
            pair.close()
    counts = ("faster", "slower", "the same", "undecided")
    print(f"B: {', '.join(f'{answer} {answers[answer]}' for answer in counts)}")
    if answers["undecided"]:
        print("undecided: repeat on a quiet machine, or with more time (--time 4)")
    if answers["ended"]:
        print(f"workers that ended: {answers['ended']}")
        return 2
    return int(answers["slower"] > 0)


class _Pair:
    """The workers of two commits; one that ended is started again for the next benchmark."""

    def __init__(self, checkouts: Mapping[str, Checkout], bench: Path) -> None:
        self._checkouts, self._bench = checkouts, bench
        self._workers: dict[str, Worker] = {}

    def compare(
        self, theme: str, name: str, budget_s: float, margin: float, progression: Progression
    ) -> Counter[str]:
        """Compare the contestants of a benchmark, print their verdicts, and count them."""
        end_s, opened = time.monotonic() + budget_s, {}
        for side in SIDES:
            try:
                opened[side] = self._worker(side).open(theme, name)
            except WorkerEndError as error:  # noqa: PERF203 - two sides
                return self._report_end(side, error)
            except WorkerError as error:
                print(f"  not in {side}: {error}", flush=True)
                return Counter()
        common = [key for key in opened["A"] if key in opened["B"]]
        for side, other in (SIDES, SIDES[::-1]):
            for key in opened[side]:
                if key not in opened[other]:
                    print(f"  {key}: not in {other}", flush=True)
        contestants = {f"{side} {key}": opened[side][key] for side in SIDES for key in common}
        if not contestants:
            print("  nothing to compare", flush=True)
            return Counter()
        try:
            return self._measure(contestants, common, end_s - time.monotonic(), margin, progression)
        except WorkerEndError as error:
            ended = next(side for side, worker in self._workers.items() if worker.has_ended)
            return self._report_end(ended, error)
        except WorkerError as error:
            print(f"  not measured: {error}", flush=True)
            return Counter()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.close()

    def _measure(
        self,
        contestants: Mapping[str, Contestant],
        common: list[str],
        limit_s: float,
        margin: float,
        progression: Progression,
    ) -> Counter[str]:
        watch = ConditionsWatch(lambda: sum(worker.cpu_s for worker in self._workers.values()))

        def difference(key: str, measured: Measurement) -> Difference:
            return Difference(*measured.estimate(f"B {key}", f"A {key}"))

        def on_block() -> None:
            watch.sample()
            progression.update()

        measurement = measure_in_turns(
            contestants,
            lambda measured: all(difference(key, measured).answer(margin) != "undecided" for key in common),
            limit_s,
            on_block=on_block,
        )
        answers: Counter[str] = Counter()
        for key in common:
            result = difference(key, measurement)
            answers[result.answer(margin)] += 1
            print(f"  {key}: {result.describe(margin)}", flush=True)
        how = f"{measurement.blocks} blocks in {measurement.seconds:.1f} s"
        print(f"    {how}; {watch.conditions().describe()}", flush=True)
        return answers

    def _worker(self, side: str) -> Worker:
        if side not in self._workers:
            self._workers[side] = Worker(self._checkouts[side], self._bench)
        return self._workers[side]

    def _report_end(self, side: str, error: WorkerEndError) -> Counter[str]:
        """Print that a worker ended; the next benchmark starts another one."""
        print(f"  not compared: {error}", flush=True)
        if side in self._workers:
            self._workers.pop(side).close()
        return Counter({"ended": 1})
