"""The command `aerogaze doctor`."""

from __future__ import annotations

import json

import click

from edge.core.errors import CheckError
from edge.diagnostics.report import Redactor, diagnose


@click.command(epilog="Example: aerogaze doctor --json")
@click.option(
    "--mavlink",
    metavar="ENDPOINT",
    help="Also listen for an autopilot: udpin:HOST:PORT, udpout:HOST:PORT or /dev/ttyTHS1[:BAUD].",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for a bug report, without names of users and hosts."
)
def doctor(mavlink: str | None, as_json: bool) -> None:
    """Show what this machine can do, what it lacks, and how to fix it.

    \b
    ok     works
    none   is absent and not needed
    lacks  would add something: the next line says how to get it
    fails  nothing runs without it; the exit code is 1
    """
    report = diagnose(endpoint=mavlink)
    if as_json:
        print(json.dumps(report.to_dict(Redactor.of_this_process()), indent=1))
    else:
        print("\n".join(report.lines()))
    if not report.can_run:
        raise CheckError("this machine cannot run aerogaze: repair what fails")
