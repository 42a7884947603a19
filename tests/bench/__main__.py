"""`make bench`: speed and memory of the project, as verdicts with intervals.

`docs/explanation/benchmark.md` says how to read them.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge.core.errors import InputError
from tests.bench.compare.comparison import DEFAULT_MARGIN, compare_commits
from tests.bench.measurement.history import History, current_commit, describe_machine
from tests.bench.measurement.row import Benchmark
from tests.bench.measurement.session import Plan, budget_of, format_seconds, run_benchmarks
from tests.bench.measurement.verdict import Verdict
from tests.bench.themes import NAMED_THEMES, THEMES, check_themes, load_benchmarks

OUT = Path("out/bench.json")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit with 2 if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures speed and memory. Exits with 1 if a bound is broken, or if B is slower than A.",
        epilog=f"themes of `make bench`: {', '.join(THEMES)}. By name only: {', '.join(NAMED_THEMES)}.",
    )
    parser.add_argument("themes", nargs="*", metavar="THEME", help="measure these themes alone")
    parser.add_argument("--theme", action="append", default=[], metavar="THEME", help="the same")
    parser.add_argument("--list", action="store_true", help="list rows, bounds and time budgets")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="compare two commits")
    parser.add_argument(
        "--within",
        type=float,
        default=DEFAULT_MARGIN * 100,
        metavar="PERCENT",
        help="difference up to which two commits count as the same (default: %(default)g)",
    )
    parser.add_argument(
        "--time",
        type=float,
        default=1,
        metavar="FACTOR",
        help="give what takes turns FACTOR times its budget, on a busy machine for example",
    )
    arguments = parser.parse_args(words)
    if not 0 < arguments.time <= 1000:
        parser.error(f"--time is {arguments.time:g}; expected a factor above 0, such as 4")
    if not 0 < arguments.within < 100:
        parser.error(f"--within is {arguments.within:g}; expected percent between 0 and 100, such as 3")
    return arguments


def load_plan(names: Sequence[str], time_factor: float) -> Plan:
    """Return the benchmarks of the themes; those whose packages are missing are left out with a line.

    Args:
        names: The themes.
        time_factor: Factor of the budget of what takes turns.
    """
    plan = {}
    for theme in check_themes(names):
        try:
            plan[theme] = [
                replace(each, budget_s=each.budget_s * time_factor) if isinstance(each, Benchmark) else each
                for each in load_benchmarks(theme)
            ]
        except InputError as error:  # noqa: PERF203 - the others are measured
            print(f"not measured: {error}", flush=True)
    return plan


def print_plan(plan: Plan) -> None:
    """Print the rows with bounds and budgets."""
    for theme, benchmarks in plan.items():
        for benchmark in benchmarks:
            print(f"{theme}: {benchmark.name}, at most {format_seconds(benchmark.budget_s)}")
            for row in benchmark.rows if isinstance(benchmark, Benchmark) else ():
                sense = "at least" if row.at_least else "at most"
                bound = "" if row.bound is None else f", {sense} {row.bound:g} {row.unit}"
                goal = "" if row.goal is None else f", goal {sense} {row.goal:g} {row.unit}"
                print(f"  {row.label}{bound}{goal}")
    print(f"all: at most {format_seconds(budget_of(plan))}")


def save(verdicts: dict[str, list[Verdict]], machine: str) -> None:
    """Replace the verdicts of the measured themes in `OUT`."""
    OUT.parent.mkdir(exist_ok=True)
    saved = json.loads(OUT.read_text()).get("themes", {}) if OUT.is_file() else {}
    for theme, judged in verdicts.items():
        saved[theme] = {"machine": machine, "rows": [verdict.to_document() for verdict in judged]}
    OUT.write_text(json.dumps({"themes": saved}, indent=1) + "\n")


def measure(plan: Plan) -> int:
    """Measure a plan, print and save their verdicts; return the exit code."""
    commit, machine, history = current_commit(), describe_machine(), History()
    print(f"{machine}, commit {commit}, at most {format_seconds(budget_of(plan))}", flush=True)
    verdicts = run_benchmarks(plan, commit, history)
    save(verdicts, machine)
    judged = [verdict for verdicts_ in verdicts.values() for verdict in verdicts_ if verdict.answer]
    answers = [verdict.answer for verdict in judged]
    counts = ", ".join(f"{answer} {answers.count(answer)}" for answer in ("kept", "broken", "undecided"))
    print(f"bounds: {counts}; wrote {OUT} and {history.path}")
    for verdict in judged:
        if verdict.answer != "kept":
            print(f"  {verdict.describe()}")
    return int("broken" in answers)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments(sys.argv[1:] if words is None else words)
    names = [*arguments.themes, *arguments.theme]
    try:
        plan = load_plan(names, arguments.time)
        if arguments.list:
            print_plan(plan)
            return 0
        if arguments.compare:
            a, b = arguments.compare
            return compare_commits(a, b, plan, arguments.within / 100)
        return measure(plan)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # worktrees and workers are removed in both cases
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
