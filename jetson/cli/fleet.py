"""The command `aerogaze fleet`: install a bundle on many boards, ring after ring."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from edge.cli.options import FILE
from edge.core.atomic_files import atomic_file
from edge.core.errors import CheckError
from edge.core.foreign_text import printable
from edge.core.locks import writer_lock
from jetson.signing.trust import load_trust

if TYPE_CHECKING:
    # These import asyncssh, which only the work of the command needs.
    from jetson.deploy.push import LoadedBundle
    from jetson.fleet.inventory import Inventory
    from jetson.fleet.rollout import Rollout
    from jetson.fleet.rollout_journal import RolloutJournal

ERR_CONSOLE = Console(stderr=True, markup=False, highlight=False)


@click.command(epilog="Example: aerogaze fleet b.swu fleet.toml --out report.json")
@click.argument("bundle", type=FILE)
@click.argument("inventory", type=FILE)
@click.option(
    "--state",
    type=FILE,
    help="Journal of finished hosts (default: next to the inventory, one per bundle).",
)
@click.option("--retry-failed", is_flag=True, help="Retry the hosts that failed in an earlier call.")
@click.option("--out", type=FILE, help="Write a report on each host as JSON.")
@click.option("--dry-run", is_flag=True, help="Only show rings and hosts; change nothing.")
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
    """Install BUNDLE on all hosts of INVENTORY, ring after ring, until too many fail.

    The same command again continues with the hosts that are not finished.
    """
    from jetson.deploy.push import load_bundle
    from jetson.fleet import progress_view
    from jetson.fleet.inventory import load_inventory
    from jetson.fleet.rollout import Rollout, make_installer
    from jetson.fleet.rollout_journal import RolloutJournal

    hosts, loaded = load_inventory(inventory), load_bundle(bundle)
    _check_trust(hosts, loaded)
    journal_path = state or inventory.with_name(f"{inventory.stem}.{loaded.digest[:12]}.rollout")
    if dry_run:
        rollout = Rollout(hosts, RolloutJournal(journal_path, loaded.digest), make_installer(loaded))
        print("\n".join(map(printable, progress_view.plan_lines(rollout))))
        return
    with writer_lock(journal_path):
        journal = RolloutJournal(journal_path, loaded.digest)
        _forget_outcomes(journal, hosts, retry_failed)
        rollout = Rollout(hosts, journal, make_installer(loaded))
        try:
            _run(rollout)
        except KeyboardInterrupt:
            finished = sum(name in journal for name in hosts.hosts)
            ERR_CONSOLE.print(
                f"{finished} of {len(hosts.hosts)} hosts are finished; the same command continues"
            )
            raise
        finally:
            document = progress_view.build_report(rollout, loaded)
            if out is not None:
                with atomic_file(out) as pending:
                    pending.write_text(json.dumps(document, indent=1) + "\n")
    if as_json:
        print(json.dumps(document))
    else:
        progress_view.print_summary(rollout, Console(markup=False, highlight=False))
    if rollout.stopped:
        raise CheckError(f"stopped: {rollout.stopped}; repair what failed, then use --retry-failed")
    if rollout.failures:
        raise CheckError(
            f"{len(rollout.failures)} of {len(hosts.hosts)} hosts failed; repair, then use --retry-failed"
        )


def _forget_outcomes(journal: RolloutJournal, hosts: Inventory, retry_failed: bool) -> None:
    """Remove outcomes of names that mean another board now and, if asked, of hosts that failed."""
    moved = {
        name
        for name, host in hosts.hosts.items()
        if name in journal and journal[name].place != host.board_key
    }
    failed = {name for name, outcome in journal.items() if retry_failed and not outcome.done}
    journal.forget(moved | failed)


def _run(rollout: Rollout) -> None:
    from jetson.fleet import progress_view

    if not ERR_CONSOLE.is_terminal:
        rollout.log = lambda line: ERR_CONSOLE.print(printable(line), soft_wrap=True)
    table = progress_view.RolloutView(rollout)
    display = Live(table, console=ERR_CONSOLE, transient=True, refresh_per_second=2)
    with display if ERR_CONSOLE.is_terminal else nullcontext():
        asyncio.run(rollout.run())


def _check_trust(hosts: Inventory, bundle: LoadedBundle) -> None:
    """Check that the keys which new boards will trust have signed the bundle."""
    for path in {host.trust for host in hosts.hosts.values() if host.trust}:
        load_trust([path]).require_threshold(list(bundle.manifest.signers), str(bundle.path))
