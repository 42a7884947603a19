"""`aerogaze fleet`."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import click
from rich import live
from rich.console import Console

from edge.core.atomic_files import atomic_file
from edge.core.errors import CheckError
from edge.core.locks import writer_lock
from jetson.deploy.push import Cargo, load
from jetson.fleet import progress_view as view
from jetson.fleet.inventory import Inventory, load_inventory
from jetson.fleet.rollout import Rollout, installer
from jetson.fleet.rollout_journal import Outcomes
from jetson.signing.trust import load_trust

PATH = click.Path(path_type=Path)
ERR_CONSOLE = Console(stderr=True, markup=False, highlight=False)


@click.command(epilog="Example: aerogaze fleet b.swu fleet.toml --out report.json")
@click.argument("bundle", type=PATH)
@click.argument("inventory", type=PATH)
@click.option("--state", type=PATH, help="What was done (default: beside the inventory, one a bundle).")
@click.option("--retry-failed", is_flag=True, help="Try the hosts again that failed before.")
@click.option("--out", type=PATH, help="Write a report on each host as JSON.")
@click.option("--dry-run", is_flag=True, help="Only show rings and hosts; touch nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def fleet(
    bundle: Path,
    inventory: Path,
    state: Path | None,
    retry_failed: bool,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put BUNDLE onto all hosts of INVENTORY, ring after ring, until too many fail.

    The same command again goes on with the hosts that have not ended.
    """
    hosts, cargo = load_inventory(inventory), load(bundle)
    _check_trust(hosts, cargo)
    place = state or inventory.with_name(f"{inventory.stem}.{cargo.digest[:12]}.rollout")
    if dry_run:
        print("\n".join(view.plan(Rollout(hosts, Outcomes(place, cargo.digest), installer(cargo)))))
        return
    with writer_lock(place):
        outcomes = Outcomes(place, cargo.digest)
        moved = [n for n, host in hosts.hosts.items() if n in outcomes and outcomes[n].place != host.place]
        failed = [name for name, outcome in outcomes.items() if retry_failed and not outcome.done]
        outcomes.forget({*moved, *failed})
        rollout = Rollout(hosts, outcomes, installer(cargo))
        try:
            _run(rollout)
        except KeyboardInterrupt:
            ended = sum(name in outcomes for name in hosts.hosts)
            ERR_CONSOLE.print(f"{ended} of {len(hosts.hosts)} hosts have ended; the same again goes on")
            raise
        finally:
            document = view.report(rollout, cargo)
            if out is not None:
                with atomic_file(out) as path:
                    path.write_text(json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document))
    else:
        view.end(rollout, Console(markup=False, highlight=False))
    if rollout.stopped:
        raise CheckError(f"stopped: {rollout.stopped}; mend what failed, then again with --retry-failed")
    if rollout.failures:
        raise CheckError(
            f"{len(rollout.failures)} of {len(hosts.hosts)} hosts failed; once mended: --retry-failed"
        )


def _run(rollout: Rollout) -> None:
    if not ERR_CONSOLE.is_terminal:
        rollout.tell = partial(ERR_CONSOLE.print, soft_wrap=True)
    shown = live.Live(view.Live(rollout), console=ERR_CONSOLE, transient=True, refresh_per_second=2)
    with shown if ERR_CONSOLE.is_terminal else nullcontext():
        asyncio.run(rollout.run())


def _check_trust(hosts: Inventory, cargo: Cargo) -> None:
    """See that what new boards are to trust has signed the bundle."""
    for place in {host.trust for host in hosts.hosts.values() if host.trust}:
        load_trust([place]).require_threshold(list(cargo.manifest.signers), str(cargo.place))
