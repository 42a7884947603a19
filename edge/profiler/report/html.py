"""HTML report of a profile: one page without external resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template

from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document, Row
from edge.profiler.measurement.statistics import summarize_times
from edge.profiler.report import svg
from edge.profiler.report.documents import row_times
from edge.profiler.report.roofline_plot import CAPTION as ROOFLINE_CAPTION
from edge.profiler.report.roofline_plot import (
    describe_roofline,
    format_peak_share,
    has_roofline,
    roofline_plot,
)
from edge.profiler.report.table import (
    alarms,
    describe_run,
    format_ms,
    format_or_dash,
    format_scaled,
    format_speedup,
    notes,
)

PARETO_CAPTION = (
    "Median milliseconds per frame, whiskers to p99, against the mean CC with PyTorch's fp32 maps. "
    "The line joins the rows that no other row beats in both."
)
MAX_SERIES = 8
"""Temperatures and clocks that are drawn; those of the GPU and the hottest junction come first."""
SHOWN_HASH_DIGITS = 12
MAX_HISTORY = 30
"""Earlier profiles that are drawn."""


def render_page(document: Document, history: Sequence[Document] = ()) -> str:
    """Return the page of a profile.

    Args:
        document: The profile.
        history: Earlier profiles of the same board, the oldest first.
    """
    rows = document["latencies"]
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    figures = [
        _figure("Latency against accuracy", pareto_plot(rows), PARETO_CAPTION),
        _figure(
            "Distributions",
            _distribution_plot(rows),
            "Every measured call, with outliers; solid line p50, dashed line p99.",
        ),
        *_timeline_figures(document),
        *_layer_figures(document),
        *_history_figure(document, history),
    ]
    return template.substitute(
        title=escape(f"{document['release']} on {machine_name(document['machine'])}"),
        release=escape(document["release"]),
        machine=escape(
            f"{machine_name(document['machine'])}, {document['created']}; {describe_run(document)}"
        ),
        alarm="".join(f'<p class="alarm">{escape(line)}</p>' for line in alarms(document)),
        figures="".join(figures),
        latencies=_latency_table(document),
        costs=_cost_table(rows),
        slowest="".join(_layer_tables(name, profile) for name, profile in document["layers"].items()),
        notes="".join(f"<li>{escape(line)}</li>" for line in notes(document)),
        conditions=_condition_list(document),
    )


def pareto_plot(rows: Sequence[Row]) -> str:
    """Return the plot of latency against accuracy, or a sentence if accuracy was not measured."""
    points = [
        (row["name"], row["p50_ms"] / row["batch"], row["p99_ms"] / row["batch"], row["accuracy"]["cc"])
        for row in rows
        if row["accuracy"]
    ]
    if not points:
        return "<p>Accuracy was not measured.</p>"
    height = 300
    fastest, slowest = min(p50 for _, p50, _, _ in points) / 1.5, max(p99 for *_, p99, _ in points) * 1.1
    x = svg.Axis(fastest, slowest, svg.LEFT, svg.WIDTH - svg.RIGHT, log=True)
    low, high = svg.padded_range([cc for *_, cc in points], 0.25)
    if high - low < 1e-6:
        low, high = low - 1e-4, high + 1e-4
    y = svg.Axis(low, high, height - svg.BOTTOM, svg.TOP)
    elements = [svg.axes(x, y, height, "ms per frame, logarithmic", "CC")]
    front = pareto_front([(p50, cc) for _, p50, _, cc in points])
    steps = [point for a, b in pairwise(front) for point in (a, (b[0], a[1]))]
    elements.append(svg.line([*steps, front[-1]], x, y, "#888", "Pareto front", dashed=True))
    for index, (name, p50, p99, cc) in enumerate(points):
        colour, px, py = svg.COLOURS[index % len(svg.COLOURS)], x(p50), y(cc)
        elements.append(svg.line([(p50, cc), (p99, cc)], x, y, colour, f"{name}: p50 to p99"))
        elements.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}"/>')
        # Labels alternate above and below the points, because near points would cover them.
        elements.append(svg.text(px + 8, py - 8 if index % 2 else py + 17, name, style="name"))
    return svg.plot(height, "latency against accuracy", *elements)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, value) that no other point beats in both, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def _distribution_plot(rows: Sequence[Row]) -> str:
    times = [row_times(row).ravel().tolist() for row in rows]
    marks = [(row["p50_ms"], row["p99_ms"]) for row in rows]
    return svg.ridges([row["name"] for row in rows], times, marks, "ms per call, logarithmic")


def _timeline_figures(document: Document) -> Iterator[str]:
    rows, conditions = document["latencies"], document["conditions"]
    points = conditions["timeline"]
    end_s = max([point["t_s"] for point in points] + [at_s for row in rows for at_s in row["turns_at_s"]])
    medians = {
        row["name"]: [
            (at_s, summarize_times(turn[None, :])["p50_ms"])
            for at_s, turn in zip(row["turns_at_s"], row_times(row), strict=True)
        ]
        for row in rows
    }
    plot = svg.series(medians, 220, ("seconds", "ms, median of a turn"), (0.0, end_s))
    yield _figure("Over time", plot + f"<p>{svg.legend(list(medians))}</p>", "Each precision in its turns.")
    for key, title, unit in (
        ("temperatures_c", "Temperatures", "degrees C"),
        ("clocks_mhz", "Clocks", "MHz"),
    ):
        names = sorted(
            points[0][key], key=lambda name: not any(word in name.lower() for word in ("gpu", "tj"))
        )
        lines = {
            name: [(point["t_s"], point[key][name]) for point in points if name in point[key]]
            for name in names[:MAX_SERIES]
        }
        if lines and len(points) > 1:
            plot = svg.series(lines, 200, ("seconds", unit), (0.0, end_s))
            throttled_s = [point["t_s"] for point in points if point["throttled"]]
            caption = f"Throttled from {throttled_s[0]:.1f} s on." if throttled_s else ""
            yield _figure(title, plot + f"<p>{svg.legend(list(lines))}</p>", caption)
        else:
            reason = conditions["not_readable"].get(title.lower(), "read only once")
            yield _figure(title, f'<p class="soft">{escape(reason)}</p>', "")


def _layer_figures(document: Document) -> Iterator[str]:
    layers = document["layers"]
    if layers:
        names = list(layers)
        parts = svg.stacks(names, [layers[name]["parts_ms"] for name in names], "ms per call")
        yield _figure("Layers, by the student's parts", parts, "Medians under the engine's own profiler.")
        kinds = svg.stacks(names, [layers[name]["kinds_ms"] for name in names], "ms per call")
        yield _figure(
            "Compute and conversions", kinds, "Conversions are casts, quantization and layout changes."
        )
        caption = ROOFLINE_CAPTION
        for name, profile in layers.items():
            if has_roofline(profile):
                yield _figure(f"Roofline of {name}", roofline_plot(profile), caption)
                caption = ""  # once is enough


def _history_figure(document: Document, history: Sequence[Document]) -> Iterator[str]:
    """Yield the plot of each row's median over the board's profiles, if there are earlier ones."""
    runs = [*history[-MAX_HISTORY:], document]
    if len(runs) < 2:
        return
    medians: dict[str, list[tuple[float, float]]] = {}
    for index, run in enumerate(runs):
        for row in run["latencies"]:
            medians.setdefault(row["name"], []).append((float(index + 1), row["p50_ms"]))
    plot = svg.series(medians, 200, ("measurement", "p50, ms"), (1.0, float(len(runs))), whole_x=True)
    yield _figure(
        "This board's history",
        plot + f"<p>{svg.legend(list(medians))}</p>",
        "The last point is this profile.",
    )


def _latency_table(document: Document) -> str:
    comparisons = {comparison["name"]: comparison for comparison in document["against"]}
    head = ("", "mean ms", "p50", "95 % of p50", "p90", "p99", "p99.9", "jitter", "std", "fps", "of fp32")
    body = []
    for row in document["latencies"]:
        low, high = row["intervals"]["p50_ms"]
        keys = ("p90_ms", "p99_ms", "p99_9_ms", "jitter_ms", "std_ms")
        body.append(
            (
                row["name"] + ("*" if row["emulated"] else ""),
                format_ms(row["mean_ms"]),
                format_ms(row["p50_ms"]),
                f"{format_ms(low)} to {format_ms(high)}",
                *(format_ms(row[key]) for key in keys),
                f"{row['fps']:.0f}",
                format_speedup(comparisons.get(row["name"])),
            )
        )
    return _table(head, body)


def _cost_table(rows: Sequence[Row]) -> str:
    head = (
        "",
        "load ms",
        "first call ms",
        "KiB",
        "RSS MiB",
        "peak MiB",
        "W",
        "J/frame",
        "CC",
        "KLD",
        "NSS",
    )
    body = []
    for row in rows:
        energy, accuracy = row["energy"] or {}, row["accuracy"] or {}
        memory_mib = [row[key] and row[key] / 2**20 for key in ("rss_growth_bytes", "rss_peak_bytes")]
        body.append(
            (
                row["name"],
                format_ms(row["load_ms"]),
                format_ms(row["first_call_ms"]),
                f"{row['size_bytes'] / 1024:.0f}",
                *(format_or_dash(mib, ".1f") for mib in memory_mib),
                format_or_dash(energy.get("power_w"), ".2f"),
                format_or_dash(energy.get("joules_per_frame"), ".3g"),
                format_or_dash(accuracy.get("cc"), ".5f"),
                format_or_dash(accuracy.get("kld"), ".2g"),
                format_or_dash(accuracy.get("nss"), ".3f"),
            )
        )
    return _table(head, body)


def _layer_tables(name: str, profile: Row) -> str:
    """Return the tables of the slowest layers and of all conversions, with the row's work."""
    conversions = profile["conversions"]
    lines = "".join(f"<p>{escape(line)}</p>" for line in describe_roofline(name, profile))
    return (
        _layer_table(name, profile, profile["slowest"], numbered=True)
        + lines
        + (_layer_table(f"{name}: conversions", profile, conversions) if conversions else "")
    )


def _layer_table(title: str, profile: Row, layer_names: Sequence[str], numbered: bool = False) -> str:
    layers = {layer["name"]: layer for layer in profile["layers"]}
    body = [
        (
            f"{number}. {layer['name']}" if numbered else layer["name"],
            layer["op"],
            layer["part"],
            layer["kind"],
            layer["precision"],
            format_ms(layer["ms"]),
            f"{layer['share']:.1%}",
            format_scaled(layer.get("macs"), 1e6),
            format_scaled(layer.get("moved_bytes"), 1e3),
            format_peak_share(layer),
            layer.get("bound") or "-",
        )
        for number, layer in enumerate(map(layers.__getitem__, layer_names), 1)
    ]
    head = ("", "op", "part", "kind", "precision", "ms", "share", "MMAC", "kB", "of peak", "bound")
    return f"<h3>{escape(title)}</h3>{_table(head, body)}"


def _condition_list(document: Document) -> str:
    machine, conditions = document["machine"], document["conditions"]
    values = {
        **{name.replace("_", " "): value for name, value in machine.items()},
        "threads": document["threads"],
        "governors": ", ".join(sorted(set(conditions["governors"].values()))),
        "clocks before, MHz": _join_values(conditions["clocks_mhz"]["before"]),
        "clocks after, MHz": _join_values(conditions["clocks_mhz"]["after"]),
        "highest temperatures, degrees C": _join_values(conditions["temperatures_c"]["highest"]),
        "throttled by": ", ".join(conditions["throttled"]),
        "load before": f"{conditions['load_average_before']:.2f}",
        "cores used by other processes": format_or_dash(conditions.get("others_cores"), ".2f"),
        "hash of release.json": document.get("release_sha256", "")[:SHOWN_HASH_DIGITS],
        "measurement overhead": f"{document['overhead_us']:.2f} us per call",
        **document["versions"],
    }
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items() if value
    )


def _join_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


def _figure(title: str, content: str, caption: str) -> str:
    return f"<figure><h2>{escape(title)}</h2>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    head_cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    # On a phone each row is a list, in which the cells have the names of their columns.
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td data-name="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head_cells}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
