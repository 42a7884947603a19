"""The command `aerogaze flash`: install a bundle on one board from the desk."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from edge.cli.console import print_next_step
from edge.cli.options import FILE, FOLDER
from edge.core.errors import TRACEBACK_VARIABLE, CheckError, InputError
from edge.core.foreign_text import printable
from jetson.cli.options import autopilot_options, policy_option, reinstall_option
from jetson.device.config import DEFAULT_ROOT
from jetson.signing.trust import load_trust

if TYPE_CHECKING:
    # These import asyncssh, which only the work of the command needs.
    from jetson.deploy.host import Host
    from jetson.deploy.push import LoadedBundle

ERR_CONSOLE = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


@click.command(epilog="Example: aerogaze flash b.swu pilot@drone-7.local --sudo")
@click.argument("bundle", type=FILE)
@click.argument("target")
@click.option("--trust", type=FILE, help="Keys for a board that trusts none yet: a .pub or trust document.")
@click.option(
    "--root", type=FOLDER, default=DEFAULT_ROOT, show_default=True, help="Aerogaze's folder on the board."
)
@click.option(
    "--aerogaze",
    metavar="PROGRAM",
    help="Aerogaze command on the board, as PLACE/bin/aerogaze (default: in /opt/aerogaze, else in PATH).",
)
@click.option(
    "--runtime/--no-runtime",
    default=None,
    help="Always or never install aerogaze on the board (default: if it is missing or too old).",
)
@click.option("--folder", is_flag=True, help="TARGET is a folder that stands in for a board, also a new one.")
@click.option("--sudo", is_flag=True, help="Run commands on the board with sudo, without a password.")
@click.option("--identity", type=FILE, help="A private SSH key (default: ~/.ssh and the SSH agent).")
@click.option("--known-hosts", type=FILE, help="File of host keys (default: ~/.ssh/known_hosts).")
@policy_option
@autopilot_options
@reinstall_option
@click.option("--dry-run", is_flag=True, help="Only check whether the bundle fits the board; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the status of the board at the end as JSON.")
def flash(
    bundle: Path,
    target: str,
    trust: Path | None,
    root: Path,
    aerogaze: str | None,
    runtime: bool | None,
    folder: bool,
    sudo: bool,
    identity: Path | None,
    known_hosts: Path | None,
    policy: str | None,
    autopilot: str | None,
    no_autopilot: bool,
    reinstall: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install BUNDLE on TARGET: user@host, user@host:port, or a folder that stands in for a board.

    A folder exists, or is written as a path, such as ./drone.
    """
    from jetson.deploy.host import Host
    from jetson.deploy.push import load_bundle

    host = Host(
        address=target,
        trust=trust,
        root=root,
        aerogaze=aerogaze,
        runtime=runtime,
        folder=folder,
        sudo=sudo,
        identity=identity,
        known_hosts=known_hosts,
        policy=policy,
        autopilot=autopilot,
        no_autopilot=no_autopilot,
        reinstall=reinstall,
    )
    status = _flash(host, load_bundle(bundle, load_trust([trust]) if trust else None), dry_run)
    if as_json:
        print(json.dumps(status))
    elif dry_run:
        print_next_step("the same command without --dry-run")
    else:
        _print_status(target, status)
        print_next_step("aerogaze device status, on the board")


def _flash(host: Host, bundle: LoadedBundle, dry_run: bool) -> dict[str, Any]:
    """Install a bundle with a progress bar, and return the status of the board."""
    from jetson.deploy.push import describe_unforeseen

    columns = TextColumn("sending"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn()
    with Progress(
        *columns, console=ERR_CONSOLE, transient=True, disable=not ERR_CONSOLE.is_terminal
    ) as progress:
        task = progress.add_task("sending", visible=False)

        def show_bytes(sent: int, total: int) -> None:
            progress.update(task, completed=sent, total=total, visible=sent < total)

        if ERR_CONSOLE.is_terminal:
            _log(f"connecting to {host.address}")
        try:
            return asyncio.run(host.flash(bundle, _log, show_bytes, dry_run))
        except (InputError, CheckError, OSError):
            raise
        except Exception as error:  # the board may be of another version, or be broken
            raise CheckError(
                f"{host.address}: {describe_unforeseen(error)}, or see where it failed with "
                f"{TRACEBACK_VARIABLE}=1"
            ) from error


def _log(line: str) -> None:
    ERR_CONSOLE.print(printable(line))  # it may quote the board or a file name


def _print_status(target: str, status: dict[str, Any]) -> None:
    print(f"{target} flies {status['release']} counter {status['counter']} in slot {status['slot']}")
    print(f"chose {status['why']}")
    for row in status["measured"]:
        text = f"cc {row['cc']:.4f}, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms"
        text += f", {row['power_w']:.1f} W" if row.get("power_w") else ""
        print(f"  {row['precision']}: {row['refused'] or text}")
