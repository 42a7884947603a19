"""`aerogaze flash`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from jetson.deploy.host import Host
from jetson.deploy.push import load
from jetson.device.config import DEFAULT_ROOT
from jetson.signing import trust as trusts

PATH = click.Path(path_type=Path)
ERR_CONSOLE = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


@click.command(epilog="Example: aerogaze flash b.swu pilot@drone-7.local --sudo")
@click.argument("bundle", type=PATH)
@click.argument("target")
@click.option("--trust", type=PATH, help="Keys for a board that trusts none yet: a .pub or trust document.")
@click.option("--root", type=PATH, default=DEFAULT_ROOT, show_default=True, help="The board's folder there.")
@click.option(
    "--aerogaze", help="The command there, as PLACE/bin/aerogaze (default: /opt/aerogaze's, else its path's)."
)
@click.option(
    "--runtime/--no-runtime", default=None, help="Bring aerogaze there, or never (default: if needed)."
)
@click.option("--sudo", is_flag=True, help="Run it there by sudo, which must not ask for a password.")
@click.option("--identity", type=PATH, help="A private SSH key (default: ~/.ssh and the agent).")
@click.option("--known-hosts", type=PATH, help="Host keys (default: ~/.ssh/known_hosts).")
@click.option("--policy", help="As of device install.")
@click.option("--autopilot", help="As of device install; of the board's.")
@click.option("--no-autopilot", is_flag=True, help="As of device install.")
@click.option("--reinstall", is_flag=True, help="As of device install.")
@click.option("--dry-run", is_flag=True, help="Only say whether it would fit; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the board's status at the end as JSON.")
def flash(
    bundle: Path,
    target: str,
    trust: Path | None,
    root: Path,
    aerogaze: str | None,
    runtime: bool | None,
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
    """Put BUNDLE onto TARGET: user@host or user@host:port, or a folder that stands in for a board."""
    host = Host(
        target,
        trust,
        root,
        aerogaze,
        runtime,
        sudo,
        identity,
        known_hosts,
        policy,
        autopilot,
        no_autopilot,
        reinstall,
    )
    cargo = load(bundle, trusts.load_trust([trust]) if trust else None)
    columns = TextColumn("sending"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn()
    with Progress(
        *columns, console=ERR_CONSOLE, transient=True, disable=not ERR_CONSOLE.is_terminal
    ) as progress:
        task = progress.add_task("sending", visible=False)

        def on_bytes(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of, visible=done < of)

        status = asyncio.run(host.flash(cargo, ERR_CONSOLE.print, on_bytes, dry_run))
    if as_json:
        print(json.dumps(status))
    elif not dry_run:
        print(f"{target} flies {status['release']} counter {status['counter']} in slot {status['slot']}")
        print(f"chose {status['why']}")
        for row in status["measured"]:
            told = f"cc {row['cc']:.4f}, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms"
            told += f", {row['power_w']:.1f} W" if row.get("power_w") else ""
            print(f"  {row['precision']}: {row['refused'] or told}")
