"""`aerogaze flash`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from edge.errors import InputError
from jetson import trust as trusts
from jetson.config import ROOT
from jetson.flash import Flash, OnBytes, Target
from jetson.flash import flash as put
from jetson.folder import FolderTarget
from jetson.manifest import Manifest
from jetson.runtime import Runtime, When
from jetson.ssh import SshTarget, parse_login

PATH = click.Path(path_type=Path)
ERR = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


@click.command(epilog="Example: aerogaze flash b.swu pilot@drone-7.local --sudo")
@click.argument("bundle", type=PATH)
@click.argument("target")
@click.option("--trust", type=PATH, help="Keys for a board that trusts none yet: a .pub or trust document.")
@click.option("--root", type=PATH, default=ROOT, show_default=True, help="The board's folder there.")
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
    asked = [
        *(["--autopilot", autopilot] if autopilot else []),
        *(["--no-autopilot"] if no_autopilot else []),
    ]
    options = [*(["--policy", policy] if policy else []), *asked, *(["--reinstall"] if reinstall else [])]
    wish = Flash(bundle, trust, tuple(options), dry_run)
    when: When = "needed" if runtime is None else "always" if runtime else "never"
    carry = Runtime(when, aerogaze, ("--root", str(root), *asked))
    trusted = trusts.load_trust([trust]) if trust else None
    login = parse_login(target, identity=identity, known_hosts=known_hosts)
    if login is None and "@" in target and "/" not in target:
        raise InputError(f"{target!r} is no board; expected user@host, user@host:port, or a folder")

    if runtime and login is None:
        raise InputError(
            f"{target} is a folder, which this desk's own aerogaze works on: leave --runtime out"
        )

    async def work(on_bytes: OnBytes) -> dict[str, Any]:
        if login is None:
            return await put(FolderTarget(Path(target)), wish, trusted, ERR.print, on_bytes)
        board = SshTarget(login, root, sudo=sudo)
        reached: Target = board

        async def prepare(manifest: Manifest) -> bool:
            return await carry.ready(board, manifest, dry_run, ERR.print, on_bytes)

        try:
            return await put(reached, replace(wish, prepare=prepare), trusted, ERR.print, on_bytes)
        finally:
            await board.close()

    columns = TextColumn("sending"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        task = progress.add_task("sending", visible=False)
        status = asyncio.run(
            work(lambda done, of: progress.update(task, completed=done, total=of, visible=done < of))
        )
    if as_json:
        print(json.dumps(status))
    elif not dry_run:
        print(f"{target} flies {status['release']} counter {status['counter']} in slot {status['slot']}")
        print(f"chose {status['why']}")
        for row in status["measured"]:
            told = f"cc {row['cc']:.4f}, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.2f} ms"
            print(f"  {row['precision']}: {row['refused'] or told}")
