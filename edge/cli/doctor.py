"""The command `aerogaze doctor`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from edge.cli.console import ERR_CONSOLE
from edge.core.atomic_files import PendingFile
from edge.core.errors import CheckError
from edge.diagnostics.report import Redactor, diagnose

DEFAULT_STEM = Path("acceptance")


@click.command(epilog="Example: aerogaze doctor --json")
@click.option(
    "--mavlink",
    metavar="ENDPOINT",
    help="Also listen for an autopilot: udpin:HOST:PORT, udpout:HOST:PORT or /dev/ttyTHS1[:BAUD].",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON for a bug report, without names of users and hosts."
)
@click.option(
    "--accept",
    is_flag=True,
    help="Measure what the GPU can do, in 30 minutes at most, and write the results to --out.",
)
@click.option("--quick", is_flag=True, help="With --accept: the main items, in 10 minutes at most.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="STEM",
    help=f"With --accept: write STEM.md and STEM.json (default: {DEFAULT_STEM}).",
)
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --accept: a release of skd-32 in pair form, for the papers' protocol, if this machine cannot "
    "export one.",
)
def doctor(
    mavlink: str | None, as_json: bool, accept: bool, quick: bool, out: Path | None, pairs: Path | None
) -> None:
    """Show what this machine can do, what it lacks, and how to fix it.

    \b
    ok     works
    none   is absent and not needed
    lacks  would add something: the next line says how to get it
    fails  nothing runs without it; the exit code is 1
    """
    if accept:
        if mavlink or as_json:
            raise click.UsageError("--accept writes its own files; leave --mavlink and --json out")
        _accept(quick, out or DEFAULT_STEM, pairs)
        return
    if quick or out or pairs:
        raise click.UsageError("--quick, --out and --pairs need --accept")
    report = diagnose(endpoint=mavlink)
    if as_json:
        print(json.dumps(report.to_dict(Redactor.of_this_process()), indent=1))
    else:
        print("\n".join(report.lines()))
    if not report.can_run:
        raise CheckError("this machine cannot run aerogaze: repair what fails")


def _accept(quick: bool, stem: Path, pairs: Path | None) -> None:
    """Run the acceptance and write its report; what fails is part of the report and no error."""
    # Imported here: doctor itself must start where numpy or OpenCV is missing.
    from edge.acceptance.report import report_document, write_report
    from edge.acceptance.runner import ItemResult, run_acceptance
    from edge.acceptance.workspace import Workspace
    from edge.release.manifest import load_release

    if pairs is not None:
        if quick:
            raise click.UsageError("--pairs is for the papers' protocol, which --quick leaves out")
        load_release(pairs).graph("fp16", "pair", "tensorrt")
    for suffix in (".md", ".json"):
        PendingFile(stem.with_name(stem.name + suffix)).discard()  # fails now, not after the measurement

    def print_result(result: ItemResult) -> None:
        print(f"{result.item}: {result.state}, {result.seconds:.0f} s: {result.text}", flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="aerogaze-accept-") as folder,
        ERR_CONSOLE.status("starting") as status,
    ):
        results = run_acceptance(
            Workspace(Path(folder), quick, pairs),
            lambda item, budget_s: status.update(f"{item.name}, at most {budget_s:.0f} s"),
            print_result,
        )
    for path in write_report(report_document(results, quick), stem):
        print(f"wrote {path}")
    if any(result.state == "interrupted" for result in results):
        raise click.Abort
