"""A roll-out as it is shown: rings first, then the hosts, live, planned or ended. Fits 80 columns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from jetson.deploy.push import LoadedBundle
from jetson.fleet.rollout import Rollout

LAST = 5
"""Failures that the live table names."""
NAMED = 20
"""Failures that the end names; all are in the report."""


class Live:
    """The rings and the last failures, drawn anew each time."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout, self._begun = rollout, time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        passed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._begun))
        yield Group(
            rings(self._rollout),
            *failures(self._rollout, LAST),
            Text(f"{passed}  Ctrl-C stops it; the same command goes on"),
        )


def rings(rollout: Rollout) -> Table:
    """Return a row for each ring."""
    table = Table(box=None, pad_edge=False)
    for column in ("ring", "hosts", "done", "failed", "running", "left"):
        table.add_column(column, justify="right")
    table.add_column("", width=20)
    for ring in rollout.inventory.rings:
        count = rollout.count(ring)
        bar = Text("━" * (20 * count.done // count.hosts), style="green")
        bar.append("━" * -(-20 * count.failed // count.hosts), style="red")
        numbers = (ring.number, count.hosts, count.done, count.failed, count.running, count.left)
        table.add_row(*map(str, numbers), bar)
    return table


def failures(rollout: Rollout, most: int) -> Iterator[Text]:
    """Yield the last failures, a line each, the latest last."""
    names = rollout.failures[-most:]
    if len(names) < len(rollout.failures):
        yield Text(f"{len(rollout.failures)} failed, the last of them:")
    for name in names:
        line = Text(name, style="red").append(f"  {rollout.outcomes[name].why}", style="default")
        line.no_wrap, line.overflow = True, "ellipsis"
        yield line


def plan(rollout: Rollout) -> Iterator[str]:
    """Yield what would be done, a line for each ring and host."""
    for ring in rollout.inventory.rings:
        bounds = f"goes on at {ring.success * 100:g} % done, stops over {ring.error * 100:g} % failed"
        yield f"ring {ring.number}: {len(ring.hosts)} hosts; {bounds}"
        for name in ring.hosts:
            ended = rollout.outcomes.get(name)
            yield f"  {name}" + ("" if ended is None else " (done)" if ended.done else " (failed)")


def end(rollout: Rollout, console: Console) -> None:
    """Print how it ended."""
    console.print(rings(rollout))
    ended = [rollout.outcomes[name] for name in rollout.inventory.hosts if name in rollout.outcomes]
    chosen = Counter(one.precision for one in ended if one.done)
    if chosen:
        console.print("chose " + ", ".join(f"{name} on {many}" for name, many in chosen.most_common()))
    for line in failures(rollout, NAMED):
        console.print(line, soft_wrap=True)


def report(rollout: Rollout, cargo: LoadedBundle) -> dict[str, Any]:
    """Return the report: each host with its ring, outcome, precision, why, tries and seconds."""
    hosts = []
    for ring in rollout.inventory.rings:
        for name in ring.hosts:
            one = rollout.outcomes.get(name)
            hosts.append(
                {
                    "host": name,
                    "ring": ring.number,
                    "outcome": "left" if one is None else "done" if one.done else "failed",
                    **{
                        key: getattr(one, key, None)
                        for key in ("precision", "why", "tries", "seconds", "ended_at")
                    },
                }
            )
    return {
        "schema": 1,
        "release": cargo.manifest.name,
        "counter": cargo.manifest.counter,
        "bundle_sha256": cargo.digest,
        "stopped": rollout.stopped,
        "hosts": hosts,
    }
