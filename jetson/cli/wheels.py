"""The command `aerogaze wheels`: collect the Python packages that a board needs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edge.cli.options import FOLDER
from jetson.wheels.target_platform import parse_platform
from jetson.wheels.wheel_set import collect_wheels, write_wheel_folder


@click.command(epilog="Example: aerogaze wheels jetpack-6 --out wheels")
@click.argument("machine")
@click.option(
    "--out", type=FOLDER, help="Folder to copy to the board (default: keep them in the cache only)."
)
@click.option("--json", "as_json", is_flag=True, help="Print id, size and wheels as JSON.")
def wheels(machine: str, out: Path | None, as_json: bool) -> None:
    """Collect the wheels that a board of type MACHINE needs, for boards without internet.

    \b
    MACHINE is jetpack-6, jetpack-7, or a platform, such as
    cp310-manylinux_2_35_aarch64.
    The wheels stay in the cache, and aerogaze flash uses them from there.
    """
    wheel_set = collect_wheels(parse_platform(machine), lambda line: click.echo(line, err=True))
    if out:
        write_wheel_folder(wheel_set, out)
    if as_json:
        names = [wheel.path.name for wheel in wheel_set.wheels]
        print(json.dumps({"id": wheel_set.id, "size_bytes": wheel_set.size_bytes, "wheels": names}))
    else:
        next_step = f"; on the board: python3 {out}/install_runtime.py /opt/aerogaze" if out else ""
        print(f"{wheel_set}{next_step}")
