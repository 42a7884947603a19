"""Tables of a profile for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Row
from edge.profiler.measurement.machine_load import describe_busy_machine
from edge.profiler.measurement.statistics import MIN_ROUNDS
from edge.profiler.report.roofline_plot import describe_peak, describe_roofline, format_peak_share

INSERTED_CAST_PREFIX = "InsertedPrecisionFreeCast_"
"""Prefix that ONNX Runtime gives the names of its own casts."""
MAX_NAME_CHARS = 22
"""Characters of a layer's name that are shown on a terminal."""
MAX_CONVERSIONS = 5
"""Conversions that are named on a terminal."""
RUNS_FOR_P99 = 300
"""From 299 independent runs on, the slowest one exceeds the 99th percentile with a probability of 95 %. A
bootstrap interval ends at the slowest run, so with fewer runs it contains the percentile less often."""
PAPER_PROTOCOL = "skd"
PAPER_FPS = {"CPU": 1490.5, "GPU (one GTX 1080 Ti)": 28738.0}
"""SKD's own figures at 32 x 32, in arXiv 1904.04992."""


def render_tables(document: Row) -> RenderableType:
    """Return the tables of a profile, with the notes that explain the numbers below them."""
    rows = document["latencies"]
    title = f"{document['release']}, {describe_run(document)}; ms per call"
    layers = [_layer_table(name, profile) for name, profile in document["layers"].items()]
    lines = map(Text, notes(document))
    warnings = [Text(line, style="bold red") for line in alarms(document)]
    return Group(
        *warnings,
        Text(title, style="italic"),
        _latency_table(document, rows),
        _cost_table(rows),
        *layers,
        *lines,
    )


def describe_run(document: Row) -> str:
    """Return the form of the graphs, the engines, and the protocol if it is the paper's."""
    rows = document["latencies"]
    engines = "; ".join(dict.fromkeys(row["engine"] for row in rows))
    protocol = ", protocol skd" if document["protocol"] == PAPER_PROTOCOL else ""
    return f"{rows[0]['form']}, {engines}{protocol}"


def _latency_table(document: Row, rows: Sequence[Row]) -> Table:
    table = _table("", "mean", "p50", "+-", "p90", "p99", "p99.9", "jitter", "fps", "of fp32")
    comparisons = {comparison["name"]: comparison for comparison in document["against"]}
    for row in rows:
        low, high = row["intervals"]["p50_ms"]
        keys = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "jitter_ms")
        mean, p50, *others = (format_ms(row[key]) for key in keys)
        table.add_row(
            row["name"] + ("*" if row["emulated"] else ""),
            mean,
            p50,
            format_ms((high - low) / 2),
            *others,
            f"{row['fps']:.0f}" if row["fps"] >= 10 else f"{row['fps']:.2g}",
            format_speedup(comparisons.get(row["name"])),
        )
    return table


def _cost_table(rows: Sequence[Row]) -> Table:
    table = _table("", "load ms", "1st call", "KiB", "RSS MiB", "peak", "J/frame", "CC", "KLD", "NSS")
    for row in rows:
        accuracy, energy = row["accuracy"] or {}, row["energy"] or {}
        table.add_row(
            row["name"],
            format_ms(row["load_ms"]),
            format_ms(row["first_call_ms"]),
            f"{row['size_bytes'] / 1024:.0f}",
            *(_format_mib(row[key]) for key in ("rss_growth_bytes", "rss_peak_bytes")),
            format_or_dash(energy.get("joules_per_frame"), ".2g"),
            format_or_dash(accuracy.get("cc"), ".4f"),
            format_or_dash(accuracy.get("kld"), ".1e"),
            format_or_dash(accuracy.get("nss"), ".3f"),
        )
    return table


def notes(document: Row) -> Iterator[str]:
    """Yield the lines that explain the numbers."""
    rows, conditions, machine = document["latencies"], document["conditions"], document["machine"]
    warm_up = max(row["warm_up"] for row in rows)
    yield (
        f"{rows[0]['runs']} runs each after {warm_up} of warm-up at most, in turns; "
        f"threads {document['threads']}; {machine_name(machine)}, {machine['cores']} cores; "
        f"load {conditions['load_average_before']:.1f}"
    )
    if rows[0]["runs"] < RUNS_FOR_P99:
        yield (
            f"p99 and p99.9 may be too low: {rows[0]['runs']} runs can miss the rare slow calls; "
            f"--runs {RUNS_FOR_P99} measures enough for p99"
        )
    if machine["jetpack"]:
        yield f"JetPack: {machine['jetpack']}"
    if machine["power_mode"]:
        yield f"power mode: {machine['power_mode']}"
    if stages := document["stages"]:
        width, height = stages["frame"]
        yield (
            f"around the engine: preprocessing {stages['preprocess_ms']:.2f} ms of a {width}x{height} frame, "
            f"postprocessing {stages['postprocess_ms']:.2f} ms"
        )
    yield from describe_peak(document["layers"])
    for row in rows:
        if row["gpu"]:
            times = ", ".join(f"{name.removesuffix('_ms')} {ms:.3f}" for name, ms in row["gpu"].items())
            rate = row["batch"] * 1e3 / row["gpu"]["gpu_ms"]
            yield f"{row['name']} on the GPU, ms: {times}; {rate:,.0f} fps without copies"
        if row.get("gpu_bytes"):
            yield f"{row['name']} takes {_format_mib(row['gpu_bytes'])} MiB of the GPU's memory"
    yield from _comparison_notes(document)
    yield from _omissions(document)
    if document["protocol"] == PAPER_PROTOCOL:
        yield from _paper_figures(document)


def _comparison_notes(document: Row) -> Iterator[str]:
    for comparison in document["against"]:
        name, base = comparison["name"], comparison["base"]
        if comparison["verdict"] == "no difference":
            yield f"{name} and {base}: no difference (the 95 % interval of the ratio contains 1)"
        if base.startswith("torch "):
            yield f"{name} is compared with {base}, because no fp32 graph of the release was measured"
        if comparison["verdict"] == "undecided":
            turns = min(len(row["times_ms"]) for row in document["latencies"] if row["name"] in (name, base))
            reason = "too few turns" if turns < MIN_ROUNDS else "the machine was too busy"
            yield f"{name} and {base}: {reason} to tell which is faster"


def _omissions(document: Row) -> Iterator[str]:
    """Yield what was measured only in part, or not at all."""
    rows = document["latencies"]
    for row in rows:
        if not row["steady"]:
            yield f"{row['name']}: not steady after {row['warm_up']} calls of warm-up; measured anyway"
    if any(row["emulated"] for row in rows):
        yield (
            "* emulated: this processor does not compute in that precision natively; the latency says "
            "nothing about a drone"
        )
    for reason in dict.fromkeys(row["energy_why"] for row in rows if row["energy_why"]):
        yield f"J/frame: {reason}"
    for sensor, reason in document["conditions"]["not_readable"].items():
        yield f"{sensor}: {reason}"
    for reason in document["left_out"]:
        yield f"left out: {reason}"


def _paper_figures(document: Row) -> Iterator[str]:
    batch = document["latencies"][0]["batch"]
    size = f"{document['input']['width']}x{document['input']['height']}"
    yield (
        f"protocol skd: batch {batch}, {size}, forward pass only (on a GPU: without copies, above), "
        "throughput; the paper's figures, 32x32, on its own machines:"
    )
    yield ", ".join(f"{fps:,.1f} fps on its {device}" for device, fps in PAPER_FPS.items())


def alarms(document: Row) -> Iterator[str]:
    """Yield why the numbers may be worse than they should be. These lines stand above the tables."""
    conditions = document["conditions"]
    if used := describe_busy_machine(document):
        yield f"BUSY MACHINE: {used} during the measurement. Stop them and measure again."
    if conditions["throttled"]:
        causes = ", ".join(conditions["throttled"])
        yield f"THROTTLED during the measurement by {causes}: not the best numbers."
    before, after = document["machine"]["power_mode"], conditions["power_mode_after"]
    if before != after:
        yield f"POWER MODE changed during the measurement: {before}, then {after}."
    if document["interrupted"]:
        yield "INTERRUPTED: only what was measured until then is shown."


def format_ms(value: float) -> str:
    """Return milliseconds with about four digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def format_speedup(comparison: Row | None) -> str:
    """Return the speed-up over fp32 such as 1.45x; "=" for no difference, "?" if undecided, "-" for none."""
    if comparison is None:
        return "-"
    marks = {"no difference": "=", "undecided": "?"}
    return marks.get(comparison["verdict"], f"{1 / comparison['ratio']:.2f}x")


def _format_mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f}"


def format_or_dash(value: float | None, spec: str) -> str:
    """Return a number in a format, or a dash where it was not measured."""
    return "-" if value is None else f"{value:{spec}}"


def format_scaled(value: float | None, unit: float) -> str:
    """Return a number in a larger unit, or a dash for none and zero."""
    return f"{value / unit:.{2 if value < 10 * unit else 1}f}" if value else "-"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _layer_table(name: str, profile: Row) -> RenderableType:
    """Return the parts, conversions and slowest layers of one row."""
    total_ms = sum(profile["parts_ms"].values()) or 1.0
    layers = {layer["name"]: layer for layer in profile["layers"]}
    table = _table(f"{name}: slowest", "part", "precision", "ms", "%", "MMAC", "of peak", "bound")
    for layer_name in profile["slowest"]:
        layer = layers[layer_name]
        table.add_row(
            layer_name.removeprefix(INSERTED_CAST_PREFIX)[:MAX_NAME_CHARS],
            layer["part"],
            layer["precision"],
            format_ms(layer["ms"]),
            f"{layer['share']:.1%}",
            format_scaled(layer.get("macs"), 1e6),
            format_peak_share(layer),
            layer.get("bound") or "-",
        )
    lines = [
        f"{name}, {title}: "
        + ", ".join(f"{group} {ms:.3f} ms ({ms / total_ms:.0%})" for group, ms in profile[key].items())
        for title, key in (("parts", "parts_ms"), ("work", "kinds_ms"))
    ]
    costs = [
        f"{layer_name.removeprefix(INSERTED_CAST_PREFIX)} {format_ms(layers[layer_name]['ms'])}"
        for layer_name in profile["conversions"]
    ]
    if costs:
        hidden = len(costs) - MAX_CONVERSIONS
        others = f", and {hidden} more" if hidden > 0 else ""
        lines.append(f"{name}, conversions, ms: {', '.join(costs[:MAX_CONVERSIONS])}{others}")
    return Group(table, *map(Text, [*lines, *describe_roofline(name, profile)]))
