"""Work of `aerogaze export`: reads footage, writes the release and prints its table."""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from calibration.inputs.calibration_frames import CalibrationFrames, read_frames
from calibration.ranges.histogram import MethodChoice
from calibration.search.accuracy import AccuracyBudget
from edge.cli.console import ERR_CONSOLE
from edge.core.atomic_files import PendingFolder, cache_folder
from edge.core.errors import InputError
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.release.manifest import MAX_NAME_LENGTH, RELEASE_NAME, load_release
from edge.release.release import Form, Release
from edge.sources.factory import open_source
from export.cli.target_options import warn
from export.graphs.int8_search import CalibrationOptions
from export.graphs.onnx_export import check_form
from export.release.builder import EXPORT_OPTIONS, is_release_file, make_release
from export.release.clip_release import make_clip_release, max_clips
from export.release.fuse_release import make_fused_release
from trainer.models.forms import forms_of
from trainer.models.student import Student, load_student


@dataclass(frozen=True)
class _ExportPlan:
    """What to export.

    Attributes:
        forms: Forms to export; empty for all.
        raw: Raw frames that the graphs take; None for prepared frames.
    """

    student: Student
    forms: tuple[Form, ...]
    raw: RawFrameSpec | None
    options: CalibrationOptions
    blur: float

    @property
    def takes_clips(self) -> bool:
        return "clip" in forms_of(self.student).modules


@dataclass(frozen=True)
class ExportRequest:
    """Values of the command's options.

    Attributes:
        name: Name of the release; None for the student's.
        method: Method that chooses the ranges.
        windows: Most windows of frames to use.
        forms: Forms to export; empty for all.
        budget: Limits for the loss of int8; None for the default ones.
        blur: Sigma of the blur of the maps, in widths of the map.
        raw: Raw frames that the graphs take; None for prepared frames.
    """

    name: str | None
    method: MethodChoice
    windows: int
    forms: tuple[Form, ...]
    budget: str | None
    blur: float
    raw: RawFrameSpec | None


def export_release(student: str, frames: tuple[str, ...], out: Path, request: ExportRequest) -> None:
    """Write the release of a student and print what was measured.

    Raises:
        InputError: The student, the footage or the folder does not fit.
    """
    options = replace(EXPORT_OPTIONS, method=request.method, cache=cache_folder())
    if request.budget is not None:
        budget = AccuracyBudget.parse(request.budget)
        options = replace(options, budget=budget, thorough=True, max_trials=None)
    loaded = load_student(student)
    loaded = replace(loaded, name=release_name(request.name, loaded.name))
    plan = _ExportPlan(loaded, request.forms, request.raw, options, request.blur)
    _check_plan(plan)
    PendingFolder(out, is_release_file).discard()  # fails now, not after the work, if it cannot be written
    footage = _read_footage(plan, frames, request.windows)
    release = _write_release(plan, footage, out)
    Console().print(release_table(release, out))
    warn(footage.warnings)
    if request.raw:
        print(
            f"the graphs take raw frames of {request.raw}; parity was measured before preprocessing was fused"
        )
    print_calibration(release, footage, forms_of(plan.student).window)


def release_name(name: str | None, student_name: str) -> str:
    """Return the given name of a release, or else the student's with "-" for what no name may contain."""
    if name is None:
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", student_name).lstrip("._+-")[:MAX_NAME_LENGTH] or "release"
    if not RELEASE_NAME.fullmatch(name):
        raise InputError(
            f"--name {name!r} cannot be the name of a release; expected up to {MAX_NAME_LENGTH} letters, "
            "digits and . _ + -, the first a letter or a digit"
        )
    return name


def _check_plan(plan: _ExportPlan) -> None:
    student = plan.student
    if plan.options.thorough and plan.takes_clips:
        raise InputError(
            f"student {student.name} takes clips, which are exported in fp32 and fp16: leave --budget out, "
            "and make int8 graphs of the release with aerogaze calibrate"
        )
    for form in ("stream",) if plan.raw else plan.forms:
        check_form(student, form)


def _status(text: str) -> Status:
    return ERR_CONSOLE.status(escape(text))


def _read_footage(plan: _ExportPlan, frames: tuple[str, ...], max_windows: int) -> CalibrationFrames:
    student = plan.student
    with ExitStack() as stack, _status(f"reading {', '.join(frames)}"):
        sources = [open_source(name) for name in frames]
        for source in sources:
            stack.callback(source.close)
        limit = min(max_windows, max_clips(student)) if plan.takes_clips else max_windows
        return read_frames(sources, student.settings.preprocessing(), forms_of(student).window, limit)


def _write_release(plan: _ExportPlan, footage: CalibrationFrames, out: Path) -> Release:
    """Write the release. With raw frames, a release without them is made first, in a temporary folder."""
    student = plan.student
    with _status("export") as status, tempfile.TemporaryDirectory() as scratch:

        def on_step(step: str) -> None:
            status.update(escape(f"export {student.name}: {step}"))

        if plan.raw is None:
            if plan.takes_clips and not plan.forms:
                return make_clip_release(student, footage, out, on_step, plan.blur)
            return make_release(student, footage, out, plan.forms, plan.options, on_step, plan.blur)
        plain = Path(scratch) / "plain"
        make_release(student, footage, plain, ("stream",), plan.options, on_step, plan.blur)
        on_step(f"fusing preprocessing for {plan.raw}")
        return make_fused_release(load_release(plain), plan.raw, out)


def release_table(release: Release, folder: Path) -> Table:
    """Return the table of a release's graphs and how well they keep the expected maps."""
    table = Table(title=escape(f"{release.name} -> {folder}"), title_justify="left")
    for column in ("graph", "for", "KiB", "max error", "CC", "KLD", "limit"):
        table.add_column(column, justify="left" if column in ("graph", "for") else "right")
    for graph, verification in release.verified_graphs():
        tolerance = verification.tolerance
        table.add_row(
            f"{graph.form} {graph.precision}",
            graph.engine,
            f"{(folder / graph.file).stat().st_size / 1024:.0f}",
            f"{verification.max_error:.0e}",
            f"{verification.mean_cc:.5f}",
            f"{verification.mean_kld:.0e}",
            f"error {tolerance:.0e}" if graph.precision == "fp32" else f"CC {1 - tolerance:.4f}",
        )
    return table


def print_calibration(
    release: Release, footage: CalibrationFrames, window: int, reference: str = "PyTorch's in fp32"
) -> None:
    """Print which int8 graphs ship and why, and what the maps were compared with."""
    calibrated = release.calibrated or {}
    for form, results in calibrated.get("int8", {}).items():
        for result in results:
            conditions = result["conditions"]
            print(
                f"{form} int8 for {result['engine']}: {result['reason']}; latency {result['latency']} on "
                f"{conditions.get('cpu') or conditions.get('name')}"
            )
    method = calibrated.get("method")
    ranges = f"{method} ranges from {len(footage.windows)} windows of {window} frames; " if method else ""
    evaluated = "held out" if footage.is_disjoint else "the same: too few to hold any out"
    verified = max(verification.frames for _, verification in release.verified_graphs())
    print(f"{ranges}maps against {reference} on {verified}, {evaluated}")
