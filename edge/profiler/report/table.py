"""A measurement on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.profiler.measurement.conditions import machine_name

INSERTED = "InsertedPrecisionFreeCast_"
"""What ONNX Runtime puts before the names of its own casts."""
DEAREST = 5
"""Conversions that are named on a terminal."""
Row = Mapping[str, Any]
PAPER = "skd"
PAPER_FPS = {"CPU": 1490.5, "GPU (one GTX 1080 Ti)": 28738.0}
"""SKD's own figures at 32 x 32, in arXiv 1904.04992."""


def rendered(document: Row) -> RenderableType:
    """Return the tables of a measurement, and below them what must be known to believe them."""
    rows = document["latencies"]
    title = f"{document['release']}, {measured(document)}; ms a call"
    layers = [layer_table(name, timed) for name, timed in document["layers"].items()]
    told = map(Text, notes(document))
    return Group(Text(title, style="italic"), _latencies(document, rows), _costs(rows), *layers, *told)


def measured(document: Row) -> str:
    """Return what was measured: the graphs' form, the engines, and the protocol if it is not ours."""
    rows = document["latencies"]
    engines = "; ".join(dict.fromkeys(row["engine"] for row in rows))
    return f"{rows[0]['form']}, {engines}" + (", protocol skd" if document["protocol"] == PAPER else "")


def _latencies(document: Row, rows: list[Row]) -> Table:
    table = _table("", "mean", "p50", "+-", "p90", "p99", "p99.9", "jitter", "fps", "of fp32")
    against = {one["name"]: one for one in document["against"]}
    for row in rows:
        low, high = row["intervals"]["p50_ms"]
        names = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "jitter_ms")
        mean, p50, *rest = (number(row[name]) for name in names)
        table.add_row(
            row["name"] + ("*" if row["emulated"] else ""),
            mean,
            p50,
            number((high - low) / 2),
            *rest,
            f"{row['fps']:.0f}",
            gain(against.get(row["name"])),
        )
    return table


def _costs(rows: list[Row]) -> Table:
    table = _table("", "load ms", "1st call", "KiB", "RSS MiB", "peak", "J/frame", "CC", "KLD", "NSS")
    for row in rows:
        found, used = row["accuracy"] or {}, row["energy"] or {}
        table.add_row(
            row["name"],
            number(row["load_ms"]),
            number(row["first_call_ms"]),
            f"{row['size_bytes'] / 1024:.0f}",
            *(_mib(row[name]) for name in ("rss_growth_bytes", "rss_peak_bytes")),
            or_dash(used.get("joules_per_frame"), ".2g"),
            or_dash(found.get("cc"), ".4f"),
            or_dash(found.get("kld"), ".1e"),
            or_dash(found.get("nss"), ".3f"),
        )
    return table


def notes(document: Row) -> Iterator[str]:
    """Yield what explains the numbers, a line each."""
    rows, conditions, machine = document["latencies"], document["conditions"], document["machine"]
    warm_up = max(row["warm_up"] for row in rows)
    yield (
        f"{rows[0]['runs']} runs each after {warm_up} of warm-up at most, in turns; "
        f"threads {document['threads']}; {machine_name(machine)}, {machine['cores']} cores; "
        f"load {conditions['load_average_before']:.1f}"
    )
    if machine["jetpack"]:
        yield f"JetPack: {machine['jetpack']}"
    if machine["power_mode"]:
        yield f"power mode: {machine['power_mode']}"
    if around := document["stages"]:
        width, height = around["frame"]
        yield (
            f"around the engine: preprocessing {around['preprocess_ms']:.2f} ms of a {width}x{height} frame, "
            f"postprocessing {around['postprocess_ms']:.2f} ms"
        )
    for row in rows:
        if row["gpu"]:
            parts = ", ".join(f"{name.removesuffix('_ms')} {ms:.3f}" for name, ms in row["gpu"].items())
            rate = row["batch"] * 1e3 / row["gpu"]["gpu_ms"]
            yield f"{row['name']} on the GPU, ms: {parts}; {rate:,.0f} fps less copies"
        if row.get("gpu_bytes"):
            yield f"{row['name']} takes {_mib(row['gpu_bytes'])} MiB of the GPU's memory"
    yield from _doubts(document)


def _doubts(document: Row) -> Iterator[str]:
    rows, conditions = document["latencies"], document["conditions"]
    if conditions["throttled"]:
        yield f"THROTTLED while measured ({', '.join(conditions['throttled'])}): not its best numbers"
    if modes := other_mode(document):
        yield modes
    if document["interrupted"]:
        yield "interrupted: what was measured by then is told"
    for one in document["against"]:
        if one["verdict"] == "no difference":
            yield f"{one['name']} and {one['base']}: no difference (95 % interval of the ratio has 1)"
        if one["base"].startswith("torch "):
            yield f"{one['name']} is held to {one['base']}, for no fp32 of the release was measured"
        if one["verdict"] == "undecided":
            yield f"{one['name']} and {one['base']}: too few turns to tell which is faster"
    for row in rows:
        if not row["steady"]:
            yield f"{row['name']}: not steady after {row['warm_up']} calls of warm-up; measured as it is"
    if any(row["emulated"] for row in rows):
        yield "* emulated: not computed in that precision by this processor; no drone's speed"
    for why in dict.fromkeys(row["energy_why"] for row in rows if row["energy_why"]):
        yield f"J/frame: {why}"
    for what, why in conditions["not_readable"].items():
        yield f"{what}: {why}"
    for why in document["left_out"]:
        yield f"left out: {why}"
    if document["protocol"] == PAPER:
        batch = rows[0]["batch"]
        size = f"{document['input']['width']}x{document['input']['height']}"
        yield (
            f"protocol skd: batch {batch}, {size}, forward only (on a GPU: less copies, above), throughput; "
            "the paper's, 32x32, on its own machines:"
        )
        yield ", ".join(f"{fps:,.1f} fps on its {where}" for where, fps in PAPER_FPS.items())


def other_mode(document: Row) -> str:
    """Return what to say of a power mode that was changed meanwhile; "" if it was not."""
    before, after = document["machine"]["power_mode"], document["conditions"]["power_mode_after"]
    return "" if before == after else f"the power mode changed while measured: {before}, then {after}"


def number(value: float) -> str:
    """Return milliseconds in four digits or so."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def gain(against: Row | None) -> str:
    """Return how many times as fast as fp32: 1.45x; = where there is no difference, ? where nobody knows."""
    if against is None:
        return "-"
    return {"no difference": "=", "undecided": "?"}.get(against["verdict"], f"{1 / against['ratio']:.2f}x")


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f}"


def or_dash(value: float | None, form: str) -> str:
    """Return a number as the format says, or a dash for what was not measured."""
    return "-" if value is None else f"{value:{form}}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def layer_table(name: str, timed: Row) -> RenderableType:
    """Return the parts, conversions and slowest layers of one row."""
    total = sum(timed["parts_ms"].values()) or 1.0
    layers = {layer["name"]: layer for layer in timed["layers"]}
    table = _table(f"{name}: slowest", "part", "kind", "precision", "ms", "%")
    for place in timed["slowest"]:
        layer = layers[place]
        row = layer["part"], layer["kind"], layer["precision"], number(layer["ms"]), f"{layer['share']:.1%}"
        table.add_row(place.removeprefix(INSERTED)[:34], *row)
    lines = [
        f"{name}, {word}: "
        + ", ".join(f"{key} {ms:.3f} ms ({ms / total:.0%})" for key, ms in timed[group].items())
        for word, group in (("parts", "parts_ms"), ("work", "kinds_ms"))
    ]
    costs = [
        f"{place.removeprefix(INSERTED)} {number(layers[place]['ms'])}" for place in timed["conversions"]
    ]
    if costs:
        more = f", and {len(costs) - DEAREST} more" if len(costs) > DEAREST else ""
        lines.append(f"{name}, conversions, ms: {', '.join(costs[:DEAREST])}{more}")
    return Group(table, *map(Text, lines))
