"""Report of the demo: one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from edge.profiler.measurement.machine_load import describe_busy_machine

MAX_CLIP_FRAMES = 48
WIDTH = 640
PLOT_WIDTHS = {"wide": 6.4, "narrow": 3.4}
"""Inches by CSS class. A phone shows the narrow plot, whose text is not scaled down."""
GREY, ORANGE = "#8a8f98", "#e8590c"
STAGES = ("teachers", "students", "network")


def render_report(summary: Mapping[str, Any], folder: Path) -> str:
    """Return the page for a summary of the demo; `folder` holds its overlay, training and maps."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (Path(__file__).parent / "demo_report.html").read_text()
    )
    graphs = {g["precision"]: g for g in summary["release"]["graphs"] if g["engine"] != "tensorrt"}
    latencies = summary["profile"]["latencies"]
    fp32_ms = next((row["p50_ms"] for row in latencies if row["precision"] == "fp32"), None)
    rows = [
        {
            **row,
            **graphs[row["precision"]]["verified"],
            "gain": fp32_ms / row["p50_ms"] if fp32_ms else None,
        }
        for row in latencies
    ]
    return template.render(
        summary=summary,
        rows=rows,
        busy=describe_busy_machine(summary["profile"]),
        clip=_encode_clip(folder / "overlay.mp4"),
        latency_plot=_for_each_width(lambda width: _latency_plot(rows, width)),
        loss_plot=_for_each_width(lambda width: _loss_plot(folder / "training", width)),
        version=version("aerogaze"),
    )


def _encode_clip(video: Path) -> str:
    """Return the overlay as an animated WebP in a data URL, smaller and with fewer frames."""
    capture = cv2.VideoCapture(str(video))
    fps = capture.get(cv2.CAP_PROP_FPS) or 10.0
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) or MAX_CLIP_FRAMES
    step = max(1, -(-total // MAX_CLIP_FRAMES))
    frames, index = [], 0
    while True:
        is_read, frame = capture.read()
        if not is_read:
            break
        if index % step == 0:
            height = round(frame.shape[0] * WIDTH / frame.shape[1])
            frames.append(cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA))
        index += 1
    capture.release()
    animation = cv2.Animation()
    animation.frames = frames
    animation.durations = [max(40, round(1000 * min(step, 3) / fps))] * len(frames)
    _, data = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, 70])
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()


def _for_each_width(plot: Callable[[float], Markup]) -> Markup:
    """Return a plot once per width; the page shows the one that fits."""
    return Markup("").join(
        Markup('<div class="{}">{}</div>').format(name, plot(width)) for name, width in PLOT_WIDTHS.items()
    )


def _latency_plot(rows: list[dict[str, Any]], width: float) -> Markup:
    figure = Figure(figsize=(width, 0.5 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [row["precision"] + ("\n(emulated)" if row["emulated"] else "") for row in rows]
    p50 = [row["p50_ms"] for row in rows]
    p99 = [row["p99_ms"] for row in rows]
    colours = [GREY if row["emulated"] else ORANGE for row in rows]
    axes.barh(names, p50, color=colours, height=0.55)
    axes.hlines(names, p50, p99, color=GREY, linewidth=1.5)
    axes.plot(p99, names, "|", color=GREY, markersize=12)
    axes.invert_yaxis()
    axes.set_xlabel("ms per frame: bar p50, mark p99")
    return _svg(figure, axes)


def _loss_plot(training: Path, width: float) -> Markup:
    figure = Figure(figsize=(width, 2.4), layout="constrained")
    axes = figure.subplots()
    for stage, style in zip(STAGES, (":", "--", "-"), strict=True):
        path = training / stage / "metrics.csv"
        if path.exists():
            rows = list(csv.DictReader(path.read_text().splitlines()))
            axes.plot(
                [int(r["step"]) for r in rows],
                [float(r["loss"]) for r in rows],
                style,
                color=ORANGE if stage == "network" else GREY,
                label=stage,
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, labelcolor=GREY)
    return _svg(figure, axes)


def _svg(figure: Figure, axes: Any) -> Markup:
    """Return the figure as inline SVG that is legible on light and dark pages."""
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    file = io.StringIO()
    # The salt differs per width, because a reference to a mark in a hidden plot draws nothing.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"aerogaze {figure.get_figwidth()}"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704  Matplotlib escapes all text
