"""`aerogaze profile`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from edge.cli.console import progress_bar
from edge.cli.options import engine_option
from edge.core.atomic_files import PendingFile, written_file
from edge.core.errors import CheckError, InputError
from edge.core.frames import parse_size
from edge.inference.engine_selection import EngineChoice
from edge.profiler.measurement.accuracy import FixationTruth
from edge.profiler.measurement.candidate import Candidate, find_candidates
from edge.profiler.measurement.document import Document
from edge.profiler.report import budget as budgets
from edge.profiler.report import documents, history
from edge.profiler.report.compare import other_conditions, said, verdicts
from edge.profiler.report.table import PAPER, rendered
from edge.profiler.session import ProfileSettings
from edge.profiler.session import profile as measure
from edge.release.manifest import FORMS, Form, Release, load_release

PAPER_BATCH, PAPER_RUNS, PAPER_WARM_UP = 256, 40, 4
LEAST_RUNS, WARM_UP = 300, 50
MEASURED_S = 1.0
"""Of the slowest contender, unless runs are asked for: medians over .1 s differ by 10 %, one to the next."""
TORCH = "trainer.inference.torch_runner"
"""Asked for by name, when it is asked for: edge runs without torch."""
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog="Example: aerogaze profile skd-64 --precision fp32,int8 --json latency.json")
@click.argument("release", required=False)
@click.option("--precision", help="Comma-separated: fp32,fp16,int8 (default: all that the release has).")
@engine_option
@click.option(
    "--form",
    type=click.Choice(FORMS),
    help="Frame by frame with states, frame pairs, or clips (default: stream, if the release has it).",
)
@click.option("--batch", default="1", show_default=True, help="Comma-separated; pairs take any, streams 1.")
@click.option(
    "--protocol",
    type=click.Choice(["aerogaze", PAPER]),
    default="aerogaze",
    show_default=True,
    help="skd: the paper's, pairs at batch 256, forward only.",
)
@click.option("--torch", "torch", help="Beside it, the student in PyTorch: fp32,fp16,bf16.")
@click.option("--student", help="The student for --torch (default: the one of the release's name).")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine (default: one a core).")
@click.option(
    "--runs",
    type=click.IntRange(min=20),
    help="Measured runs of each precision (default: 300 at least, and 1 s of the slowest; protocol skd: 40).",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    help="Runs before, not measured: at least (default: 50; protocol skd: 4), until the drift stops.",
)
@click.option(
    "--frame",
    "frame_size",
    default="1280x720",
    show_default=True,
    help="Frames that preprocessing is timed with.",
)
@click.option(
    "--energy",
    "energy_s",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    help="Seconds of each precision, and idle, for joules; 0: none.",
)
@click.option("--truth", type=FILE, help="An npz of frames and fixations, for NSS.")
@click.option("--layers", is_flag=True, help="Time each layer, too; --html does.")
@click.option("--budget", type=FILE, help="A TOML file of bounds; exit 1 if one is broken.")
@click.option("--json", "json_path", type=PATH, help="Write the measurement with its conditions.")
@click.option("--html", "html_path", type=PATH, help="Write a report: one page, nothing beside it.")
@click.option(
    "--history/--no-history",
    "keeps",
    default=True,
    show_default=True,
    help="Keep it, and hold it to the last of this board.",
)
@click.option(
    "--compare", "pair", type=FILE, nargs=2, help="Measure nothing: hold two --json files together."
)
def profile(
    release: str | None,
    precision: str | None,
    engine: EngineChoice,
    form: Form | None,
    batch: str,
    protocol: str,
    torch: str | None,
    student: str | None,
    threads: int | None,
    runs: int | None,
    warm_up: int | None,
    frame_size: str,
    energy_s: float,
    truth: Path | None,
    layers: bool,
    budget: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    keeps: bool,
    pair: tuple[Path, Path] | None,
) -> None:
    """Measure the latency of RELEASE per precision, with what would explain it.

    Engines are called alone, on the release's golden frames, in turns.
    """
    if pair and (html_path or budget):
        raise InputError("--compare measures nothing: leave --html and --budget out")
    if pair:
        _compare(*pair, json_path)
        return
    bounds = budgets.read(budget) if budget else None
    given = FixationTruth(truth) if truth else None
    for path in filter(None, (json_path, html_path)):
        PendingFile(path).discard()  # what cannot be written is told now, not after the measuring
    opened = load_release(release)
    batches = _numbers(batch)
    frame = parse_size(frame_size, "--frame")
    least_s = MEASURED_S if runs is None and protocol != PAPER else 0.0
    runs, warm_up = _runs(protocol, runs, warm_up)
    if protocol == PAPER:
        form, batches = "pair", [PAPER_BATCH]
    form = form or (opened.forms() or FORMS)[0]
    found, left_out = find_candidates(
        opened, _precisions(opened, form, engine, precision), form, engine, threads, batches
    )
    if torch:
        beside, unlike = _torch(opened, student, torch.split(","), form, threads, batches)
        found, left_out = found + beside, left_out + unlike
    settings = ProfileSettings(
        runs, least_s, warm_up, threads, frame, energy_s, layers or html_path is not None, protocol
    )
    with progress_bar("profile", "runs/s") as progress:
        task = progress.add_task(escape(opened.name), total=None)

        def on_turn(runs: int, of: int) -> None:
            progress.update(task, advance=runs, total=of)

        document = measure(opened, found, settings, left_out, given, on_turn)
    _tell(document, json_path, html_path, keeps)
    if document["interrupted"]:
        raise click.Abort
    if bounds and (broken := list(budgets.broken(bounds, document))):
        raise CheckError(f"budget {budget}: {'; '.join(broken)}")


def _tell(document: Document, json_path: Path | None, html_path: Path | None, keeps: bool) -> None:
    if json_path:
        documents.write(document, json_path)
    Console(soft_wrap=False).print(rendered(document))
    past = history.earlier(document) if keeps else []
    if past:
        print(f"against the last of this board, {past[-1]['created']}:")
        _print_verdicts(past[-1], document)
    if keeps and not document["interrupted"]:
        history.keep(document)
    if html_path:
        from edge.profiler.report.html import page

        with written_file(html_path) as path:
            path.write_text(page(document, past), encoding="utf-8")
    for path in filter(None, (json_path, html_path)):
        print(f"wrote {path}")


def _compare(a: Path, b: Path, json_path: Path | None) -> None:
    first, second = documents.read(a), documents.read(b)
    found = verdicts(first, second)
    _print_verdicts(first, second)
    if json_path:
        other = list(other_conditions(first, second))
        with written_file(json_path) as path:
            path.write_text(
                json.dumps({"schema": 1, "verdicts": found, "conditions": other}, indent=1) + "\n"
            )
        print(f"wrote {json_path}")


def _print_verdicts(a: Document, b: Document) -> None:
    for verdict in verdicts(a, b):
        print(f"  {verdict['name']}: {said(verdict)}")
    for line in other_conditions(a, b):
        print(f"  differs: {line}")


def _precisions(release: Release, form: Form, engine: EngineChoice, named: str | None) -> list[str]:
    if named:
        return list(dict.fromkeys(p.strip() for p in named.split(",")))
    found: list[str] = [*release.precisions(form, "tensorrt" if engine == "tensorrt" else "onnxruntime")]
    if not found:
        raise InputError(
            f"release {release.name} has no graph in {form} form: export one (aerogaze export {release.name} "
            f"--form {form}), or measure another --form"
        )
    return found


def _torch(
    release: Release,
    student: str | None,
    precisions: Sequence[str],
    form: Form,
    threads: int | None,
    batches: Sequence[int],
) -> tuple[list[Candidate], list[str]]:
    try:
        module = importlib.import_module(TORCH)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("torch", "safetensors"):
            raise
        raise InputError(
            f"--torch needs {error.name}, which is not installed: pip install 'aerogaze[train]'"
        ) from None
    wanted = [precision.strip() for precision in precisions]
    found: tuple[list[Candidate], list[str]] = module.torch_candidates(
        student or release.name, release, wanted, form, threads, batches
    )
    return found


def _runs(protocol: str, runs: int | None, warm_up: int | None) -> tuple[int, int]:
    """Return how often to run: the paper's batch is 256 frames a run, and fewer will do."""
    usual, warm = (PAPER_RUNS, PAPER_WARM_UP) if protocol == PAPER else (LEAST_RUNS, WARM_UP)
    if runs is not None and runs < LEAST_RUNS and protocol != PAPER:
        raise InputError(
            f"{runs} runs tell nothing of a 99th percentile; expected at least {LEAST_RUNS}: leave --runs out"
        )
    return usual if runs is None else runs, warm if warm_up is None else warm_up


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"no batch {text!r}; expected whole numbers of at least 1, such as 1,8")
    return list(dict.fromkeys(found))
