"""`aerogaze wheels`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from jetson.wheels.target_platform import parse_machine
from jetson.wheels.wheel_set import gather, write_folder


@click.command(epilog="Example: aerogaze wheels jetpack-6 --out wheels")
@click.argument("machine")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for the board; without it: only kept.")
@click.option("--json", "as_json", is_flag=True, help="Print id, size and wheels as JSON.")
def wheels(machine: str, out: Path | None, as_json: bool) -> None:
    """Gather the wheels that are the runtime of MACHINE, for boards without internet.

    \b
    MACHINE is jetpack-6, jetpack-7, or as cp310-manylinux_2_35_aarch64.
    They are kept: aerogaze flash takes them from there.
    """
    found = gather(parse_machine(machine), lambda line: click.echo(line, err=True))
    if out:
        write_folder(found, out)
    if as_json:
        names = [wheel.path.name for wheel in found.wheels]
        print(json.dumps({"id": found.id, "size_bytes": found.size_bytes, "wheels": names}))
    else:
        print(f"{found}" + (f"; on the board: python3 {out}/install_runtime.py /opt/aerogaze" if out else ""))
