"""Progress, plan and summary of a roll-out for the terminal, and its report. Tables fit 80 columns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from edge.core.foreign_text import printable
from jetson.deploy.push import LoadedBundle
from jetson.fleet.inventory import Ring
from jetson.fleet.rollout import Rollout
from jetson.fleet.rollout_journal import HostOutcome

MAX_LIVE_FAILURES = 5
"""Failed hosts that the live view names."""
MAX_SUMMARY_FAILURES = 20
"""Failed hosts that the summary names; the report names all."""
BAR_WIDTH = 20


class RolloutView:
    """Live view of a roll-out for rich: its rings and its last failures, rendered from the current state."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout, self._started = rollout, time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the view."""
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._started))
        yield Group(
            ring_table(self._rollout),
            *failure_lines(self._rollout, MAX_LIVE_FAILURES),
            Text(f"{elapsed}  Ctrl-C stops; the same command continues"),
        )


def ring_table(rollout: Rollout) -> Table:
    """Return a table with a row for each ring."""
    table = Table(box=None, pad_edge=False)
    for column in ("ring", "hosts", "done", "failed", "running", "left"):
        table.add_column(column, justify="right")
    table.add_column("", width=BAR_WIDTH)
    for ring in rollout.inventory.rings:
        progress = rollout.progress(ring)
        bar = Text("━" * (BAR_WIDTH * progress.done // progress.hosts), style="green")
        bar.append("━" * -(-BAR_WIDTH * progress.failed // progress.hosts), style="red")  # rounded up
        numbers = (
            ring.number, progress.hosts, progress.done, progress.failed, progress.running, progress.left,
        )  # fmt: skip
        table.add_row(*map(str, numbers), bar)
    return table


def failure_lines(rollout: Rollout, limit: int) -> Iterator[Text]:
    """Yield a line for each of the last failures, the latest last."""
    names = rollout.failures[-limit:]
    if len(names) < len(rollout.failures):
        yield Text(f"{len(rollout.failures)} failed; the last of them:")
    for name in names:
        line = Text(printable(name), style="red")
        line.append(f"  {printable(rollout.journal[name].why)}", style="default")
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


def plan_lines(rollout: Rollout) -> Iterator[str]:
    """Yield a line for each ring and host that the roll-out would update."""
    for ring in rollout.inventory.rings:
        limits = f"continues at {ring.success * 100:g} % done, stops above {ring.error * 100:g} % failed"
        yield f"ring {ring.number}: {len(ring.hosts)} host{'s' * (len(ring.hosts) != 1)}; {limits}"
        for name in ring.hosts:
            outcome = rollout.journal.get(name)
            yield f"  {name}" + ("" if outcome is None else " (done)" if outcome.done else " (failed)")


def print_summary(rollout: Rollout, console: Console) -> None:
    """Print the rings, the precisions that the boards chose, and the last failures."""
    console.print(ring_table(rollout))
    outcomes = [rollout.journal[name] for name in rollout.inventory.hosts if name in rollout.journal]
    counts = Counter(outcome.precision for outcome in outcomes if outcome.done)
    if counts:
        text = ", ".join(f"{precision} on {count}" for precision, count in counts.most_common())
        console.print(f"chose {text}")
    for line in failure_lines(rollout, MAX_SUMMARY_FAILURES):
        console.print(line, soft_wrap=True)


def build_report(rollout: Rollout, bundle: LoadedBundle) -> dict[str, Any]:
    """Return the report: each host with its ring, outcome, precision, reason, attempts and duration."""
    return {
        "schema": 1,
        "release": bundle.manifest.name,
        "counter": bundle.manifest.counter,
        "bundle_sha256": bundle.digest,
        "stopped": rollout.stopped,
        "hosts": [
            _report_row(name, ring, rollout.journal.get(name))
            for ring in rollout.inventory.rings
            for name in ring.hosts
        ],
    }


def _report_row(name: str, ring: Ring, outcome: HostOutcome | None) -> dict[str, Any]:
    return {
        "host": name,
        "ring": ring.number,
        "outcome": "left" if outcome is None else "done" if outcome.done else "failed",
        **{key: getattr(outcome, key, None) for key in ("precision", "why", "tries", "seconds", "ended_at")},
    }
