"""Report of `aerogaze run` on the terminal, as text or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

from edge.cli.console import ERR_CONSOLE
from edge.cli.run.open_camera import OpenCamera
from edge.core.errors import CheckError, InputError
from edge.pipeline.run import RunSummary


def report_run(cameras: Sequence[OpenCamera], outcomes: Mapping[str, RunSummary | BaseException]) -> None:
    """Print the summary of each camera that has one.

    Args:
        cameras: The cameras of the run.
        outcomes: Summary or error of each camera, by its name.

    Raises:
        InputError: Cameras failed; the message names all of them.
        CheckError: An output is missing or incomplete, or the process has to be restarted.
        BaseException: A camera failed by a bug, which keeps its traceback.
    """
    documents: dict[str, dict[str, Any]] = {}
    errors: list[BaseException] = []
    for camera in cameras:
        summary, prefix = outcomes[camera.name], f"{camera.name}: " if camera.name else ""
        if isinstance(summary, BaseException):
            documents[camera.name] = {"source": camera.run_info.source, "error": str(summary)}
            errors.append(_name_camera(summary, prefix))
            continue
        _print_warnings(summary, camera, prefix)
        documents[camera.name] = _summary_document(summary, camera)
        if not camera.options.as_json:
            with redirect_stdout(sys.stderr) if camera.options.uses_stdout else nullcontext():
                _print_text(summary, camera, prefix)
        if summary.failed:
            errors.append(CheckError(f"{prefix}not every output is complete: {'; '.join(summary.failed)}"))
    if cameras[0].options.as_json:
        print(json.dumps(documents.get("", {"cameras": documents})))
    if errors:
        raise _join_errors(errors)


def _name_camera(error: BaseException, prefix: str) -> BaseException:
    """Return an error with the name of its camera in the message; a bug stays as it is."""
    kind = next((kind for kind in (InputError, CheckError) if isinstance(error, kind)), None)
    return kind(f"{prefix}{error}") if kind else error


def _join_errors(errors: Sequence[BaseException]) -> BaseException:
    """Return one error for several: a bug before invalid input, and that before a failed check."""
    if bugs := [error for error in errors if not isinstance(error, (InputError, CheckError))]:
        return bugs[0]
    kind = InputError if any(isinstance(error, InputError) for error in errors) else CheckError
    return kind("; ".join(map(str, errors)))


def _print_warnings(summary: RunSummary, camera: OpenCamera, prefix: str) -> None:
    """Print that a run over a file was interrupted, and what of the file could not be read."""
    if summary.interrupted and not camera.options.is_live:
        ERR_CONSOLE.print(
            f"{prefix}interrupted: kept the {summary.frames} frames done so far", highlight=False
        )
    for line in camera.damage:
        ERR_CONSOLE.print(
            f"warning: {prefix}{line}; the maps of the other frames were kept",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _summary_document(summary: RunSummary, camera: OpenCamera) -> dict[str, Any]:
    """Return the summary as a JSON object."""
    return {
        **dataclasses.asdict(camera.run_info),
        **dataclasses.asdict(summary),
        "damage": list(camera.damage),
    }


def _print_text(summary: RunSummary, camera: OpenCamera, prefix: str) -> None:
    """Print the summary as text."""
    if not summary.frames:
        reason = f": {camera.error}" if camera.error else ""
        print(f"{prefix}no frames in {summary.seconds:.2f} s{reason}")
        return
    run_info, is_live = camera.run_info, camera.options.is_live
    latency_start = "capture" if is_live else "decoded frame"
    print(
        f"{prefix}{summary.frames} frames in {summary.seconds:.2f} s ({summary.fps:.0f} fps), "
        f"{run_info.release} {run_info.precision}, {run_info.engine}\n"
        f"first map after {summary.first_map_s:.2f} s; {latency_start} to map: "
        f"p50 {summary.latency_p50_ms:.2f} ms, p99 {summary.latency_p99_ms:.2f} ms\n"
        f"on average: waiting {summary.waiting_ms:.2f} ms, preparing {summary.prepare_ms:.2f} ms, "
        f"inference {summary.inference_ms:.2f} ms\n"
        f"{_describe_limit(summary)}"
    )
    if summary.window_frames > 1 or summary.delay_frames:
        print(_describe_window(summary))
    if is_live:
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.faults.items()))
        print(f"live: {summary.dropped} frames dropped, {summary.held} maps held; faults: {faults or 'none'}")
    for name, path in camera.options.outputs.items():
        if f"sink:{name}" in summary.wrote:
            print(f"wrote {path}")


def _describe_window(summary: RunSummary) -> str:
    """Return a line that says which frames a map is made of, and how long after its frame it comes."""

    def describe(frames: int) -> str:
        seconds = f"{frames / summary.frame_rate:.2f} s" if summary.frame_rate else "unknown time"
        return f"{frames} {'frames' if frames > 1 else 'frame'} ({seconds})"

    seen = f"the network sees {describe(summary.window_frames)} at once" if summary.window_frames > 1 else ""
    late = f"a map comes {describe(summary.delay_frames)} after its frame" if summary.delay_frames else ""
    rate = f"at {summary.frame_rate:.3g} frames/s"
    return f"{'; '.join(filter(None, (seen, late)))}, {rate}"


def _describe_limit(summary: RunSummary) -> str:
    """Return a line that names the stage that limits the rate, with the share of the time that each works."""
    busy = ", ".join(f"{stage.removeprefix('sink:')} {share:.0%}" for stage, share in summary.busy.items())
    limit = (
        f"limited by {summary.limited_by.removeprefix('sink:')}" if summary.limited_by else "no clear limit"
    )
    return f"rate: {limit}; busy: {busy}"
