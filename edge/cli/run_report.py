"""Report of `aerogaze run` on the terminal, as text or JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.cli.console import ERR_CONSOLE
from edge.core.errors import CheckError
from edge.core.run_status import RunInfo
from edge.pipeline.run import RunSummary


def print_warnings(summary: RunSummary, damage: Sequence[str], is_live: bool) -> None:
    """Print that a run over a file was interrupted, and what of the file could not be read."""
    if summary.interrupted and not is_live:
        ERR_CONSOLE.print(f"interrupted: kept the {summary.frames} frames done so far", highlight=False)
    for line in damage:
        ERR_CONSOLE.print(
            f"warning: {line}; the maps of the other frames were kept",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def print_json(summary: RunSummary, run_info: RunInfo, damage: Sequence[str]) -> None:
    """Print the summary as one JSON object."""
    document = {
        "source": run_info.source,
        "release": run_info.release,
        "precision": run_info.precision,
        "engine": run_info.engine,
    }
    print(json.dumps({**document, **dataclasses.asdict(summary), "damage": list(damage)}))


def print_text(
    summary: RunSummary, run_info: RunInfo, is_live: bool, outputs: Mapping[str, Path | None]
) -> None:
    """Print the summary as text.

    Args:
        summary: Summary of the run.
        run_info: Description of the run.
        is_live: Whether the run was live.
        outputs: Path of each output by the name of its sink.
    """
    latency_start = "capture" if is_live else "decoded frame"
    print(
        f"{summary.frames} frames in {summary.seconds:.2f} s ({summary.fps:.0f} fps), "
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
    for name, path in outputs.items():
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


def check_outputs(summary: RunSummary) -> None:
    """Check that all outputs are complete.

    Raises:
        CheckError: An output is missing or incomplete.
    """
    if summary.failed:
        raise CheckError(f"not every output is complete: {'; '.join(summary.failed)}")
