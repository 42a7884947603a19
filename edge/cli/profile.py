"""The command `aerogaze profile`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import TimeRemainingColumn

from edge.cli.console import progress_bar
from edge.cli.options import FILE, FileType, engine_option, gpu_wait_option
from edge.core.atomic_files import PendingFile, atomic_file
from edge.core.errors import CheckError, InputError
from edge.core.frames import parse_size
from edge.inference.engine_selection import EngineChoice
from edge.profiler.extensions import load_candidate_source
from edge.profiler.measurement.accuracy import FixationTruth
from edge.profiler.measurement.candidate import find_candidates
from edge.profiler.measurement.document import Document
from edge.profiler.report.budget import find_violations, read_budget
from edge.profiler.report.compare import compare_documents, differing_conditions, format_comparison
from edge.profiler.report.documents import read_document, write_document
from edge.profiler.report.history import latest_baseline, load_history, save_to_history
from edge.profiler.report.table import PAPER_PROTOCOL, render_tables
from edge.profiler.session import ProfileSettings, profile_release
from edge.release.manifest import load_release
from edge.release.release import FORMS, Form, Release

PAPER_BATCH, PAPER_RUNS, PAPER_WARM_UP = 256, 40, 4
DEFAULT_RUNS, MIN_RUNS = 300, 20
MIN_TIME_S, MAX_TIME_S = 1.0, 60.0
"""Least time of the slowest candidate, and most time of all candidates, unless --runs is given: medians over
0.1 s vary by 10 %."""
EXISTING_FILE = FileType(exists=True, dir_okay=False)


@dataclass(frozen=True)
class ProfileOptions:
    """Values of the command's argument and options, as click parsed them."""

    release: str | None
    precision: str | None
    engine: EngineChoice
    form: Form | None
    batch: str
    protocol: str
    torch: str | None
    student: str | None
    threads: int | None
    runs: int | None
    warm_up: int | None
    frame: str
    energy: float
    truth: Path | None
    layers: bool
    budget: Path | None
    json: Path | None
    html: Path | None
    history: bool
    compare: tuple[Path, Path] | None

    @property
    def is_paper_protocol(self) -> bool:
        """Return whether the paper's protocol was chosen."""
        return self.protocol == PAPER_PROTOCOL

    @property
    def output_paths(self) -> list[Path]:
        """Return the files that the command writes."""
        return [path for path in (self.json, self.html) if path is not None]


@click.command(epilog="Example: aerogaze profile skd-64 --precision fp32,int8 --json latency.json")
@click.argument("release", required=False)
@click.option(
    "--precision",
    metavar="LIST",
    help="Precisions, separated by commas: fp32,fp16,int8 (default: all of the release).",
)
@engine_option
@gpu_wait_option
@click.option(
    "--form",
    type=click.Choice(FORMS),
    help="Form of the graphs: stream (frame by frame with states), pair or clip (default: stream, if the "
    "release has it).",
)
@click.option(
    "--batch",
    metavar="LIST",
    default="1",
    show_default=True,
    help="Batch sizes, separated by commas; only pairs take more than 1.",
)
@click.option(
    "--protocol",
    type=click.Choice(["aerogaze", PAPER_PROTOCOL]),
    default="aerogaze",
    show_default=True,
    help="skd: as in the paper, pairs at batch 256, forward pass only.",
)
@click.option(
    "--torch",
    metavar="LIST",
    help="Measure the student in PyTorch, too, in these precisions: fp32,fp16,bf16.",
)
@click.option(
    "--student", metavar="NAME", help="Student for --torch (default: the one with the release's name)."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of the engine (default: one per core).",
)
@click.option(
    "--runs",
    type=int,
    metavar="N",
    help="Measured runs of each precision, at least 20 (default: 300; more until the slowest took 1 s, fewer "
    "if all would take over a minute; protocol skd: 40).",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    metavar="N",
    help="Minimum of runs before the measurement, which starts when the latency is steady (default: 6 turns; "
    "protocol skd: 4).",
)
@click.option(
    "--frame",
    metavar="WxH",
    default="1280x720",
    show_default=True,
    help="Size of the frames that preprocessing is timed with.",
)
@click.option(
    "--energy",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=3.0,
    show_default=True,
    help="Time to measure the energy of each precision, and of the idle machine; 0 for none.",
)
@click.option("--truth", type=EXISTING_FILE, help="An npz file of frames and fixations, for NSS.")
@click.option("--layers", is_flag=True, help="Time each layer and count its work; --html does so, too.")
@click.option(
    "--budget", type=EXISTING_FILE, help="A TOML file of bounds; exit code 1 if the release breaks one."
)
@click.option("--json", type=FILE, help="Write the measurement and its conditions as JSON.")
@click.option("--html", type=FILE, help="Write a report as one HTML page.")
@click.option(
    "--history/--no-history",
    default=True,
    show_default=True,
    help="Save the result and compare it with this board's previous one.",
)
@click.option(
    "--compare",
    type=EXISTING_FILE,
    nargs=2,
    metavar="FILE FILE",
    help="Compare two files written by --json, without a measurement.",
)
def profile(**values: Any) -> None:
    """Measure the latency of RELEASE per precision, and what can explain it.

    The engines are called alone, in turns, on the golden frames of the release.
    """
    options = ProfileOptions(**values)
    if options.compare:
        if options.html or options.budget:
            raise InputError("--compare measures nothing: leave --html and --budget out")
        _compare_files(*options.compare, options.json)
        return
    budget = read_budget(options.budget) if options.budget else None
    document = _measure(options)
    _report(document, options)
    if document["interrupted"]:
        raise click.Abort
    if budget and (violations := list(find_violations(budget, document))):
        raise CheckError(f"budget {options.budget}: {'; '.join(violations)}")


def _measure(options: ProfileOptions) -> Document:
    truth = FixationTruth(options.truth) if options.truth else None
    for path in options.output_paths:
        PendingFile(path).discard()  # fails now, and not after the measurement, if it cannot be written
    release = load_release(options.release)
    form, batches = _form_and_batches(options, release)
    settings = _settings(options)
    candidates, left_out = find_candidates(
        release, _precisions(options, release, form), form, options.engine, options.threads, batches
    )
    if options.torch:
        torch_candidates, torch_left_out = load_candidate_source("torch")(
            options.student or release.name,
            release,
            _split(options.torch),
            form,
            options.threads,
            batches,
        )
        candidates, left_out = candidates + torch_candidates, left_out + torch_left_out
    with progress_bar("profile", "runs/s", columns=[TimeRemainingColumn()]) as progress:
        task = progress.add_task("", total=None)

        def on_step(step: str) -> None:
            progress.update(task, description=escape(f"{release.name}: {step}"))

        def on_turn(calls: int, total: int) -> None:
            progress.update(task, advance=calls, total=total)

        return profile_release(release, candidates, settings, left_out, truth, on_turn, on_step)


def _report(document: Document, options: ProfileOptions) -> None:
    """Print the tables, write the files, and keep the history."""
    if options.json:
        write_document(document, options.json)
    Console(soft_wrap=False).print(render_tables(document))
    history = load_history(document) if options.history else []
    if history:
        baseline = latest_baseline(history)
        print(f"{document['release']} compared with this board's previous profile, {baseline['created']}:")
        _print_comparison(baseline, document)
    if options.history and not document["interrupted"]:
        save_to_history(document)
    if options.html:
        from edge.profiler.report.html import render_page  # imported only for a report

        with atomic_file(options.html) as path:
            path.write_text(render_page(document, history), encoding="utf-8")
    for path in options.output_paths:
        print(f"wrote {path}")


def _compare_files(a: Path, b: Path, json_path: Path | None) -> None:
    """Compare two documents, print the result, and write it as JSON if a path is given."""
    first, second = read_document(a), read_document(b)
    comparisons = compare_documents(first, second)
    _print_comparison(first, second)
    if json_path:
        conditions = list(differing_conditions(first, second))
        result = {"schema": 1, "verdicts": comparisons, "conditions": conditions}
        with atomic_file(json_path) as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {json_path}")


def _print_comparison(a: Document, b: Document) -> None:
    for comparison in compare_documents(a, b):
        print(f"  {comparison['name']}: {format_comparison(comparison)}")
    for line in differing_conditions(a, b):
        print(f"  differs: {line}")


def _form_and_batches(options: ProfileOptions, release: Release) -> tuple[Form, list[int]]:
    batches = _parse_batches(options.batch)
    if options.is_paper_protocol:
        return "pair", [PAPER_BATCH]
    return options.form or (release.forms() or FORMS)[0], batches


def _precisions(options: ProfileOptions, release: Release, form: Form) -> list[str]:
    if options.precision:
        return list(dict.fromkeys(_split(options.precision)))
    precisions = release.precisions(form, "tensorrt" if options.engine == "tensorrt" else "onnxruntime")
    if not precisions:
        raise InputError(
            f"release {release.name} has no graph in {form} form: export one (aerogaze export {release.name} "
            f"--form {form}), or measure another --form"
        )
    return list(precisions)


def _settings(options: ProfileOptions) -> ProfileSettings:
    """Return the settings of the profile.

    Raises:
        InputError: If `--frame` is not valid, or `--runs` is too low.
    """
    is_paper, runs, warm_up = options.is_paper_protocol, options.runs, options.warm_up
    frame_size = parse_size(options.frame, "--frame")
    if runs is not None and runs < MIN_RUNS:
        raise InputError(
            f"{runs} runs are too few for an interval; expected at least {MIN_RUNS}: leave --runs out"
        )
    is_timed = runs is None and not is_paper
    if runs is None:
        runs = PAPER_RUNS if is_paper else DEFAULT_RUNS
    return ProfileSettings(
        runs=runs,
        min_time_s=MIN_TIME_S if is_timed else 0.0,
        max_time_s=MAX_TIME_S if is_timed else math.inf,
        warm_up=PAPER_WARM_UP if warm_up is None and is_paper else warm_up,
        threads=options.threads,
        frame_size=frame_size,
        energy_s=options.energy,
        layers=options.layers or options.html is not None,
        protocol=options.protocol,
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _parse_batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise InputError(f"no batch {text!r}; expected whole numbers of at least 1, such as 1,8")
    return list(dict.fromkeys(batches))
