"""The report of a measurement: one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document
from edge.profiler.measurement.statistics import summarise
from edge.profiler.report import svg
from edge.profiler.report.documents import times_of
from edge.profiler.report.table import gain, measured, notes, number, or_dash, other_mode

Row = Mapping[str, Any]


def page(document: Document, past: Sequence[Document] = ()) -> str:
    """Return the page of a measurement; `past`: earlier ones of this board, the oldest first."""
    rows = document["latencies"]
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    figures = [
        _figure("Latency against accuracy", pareto(rows), PARETO),
        _figure(
            "Distributions",
            _distributions(rows),
            "Every measured call, outliers kept; solid p50, dashed p99.",
        ),
        *_timeline(document),
        *_layers(document),
        *_history(document, past),
    ]
    return template.substitute(
        title=escape(f"{document['release']} on {machine_name(document['machine'])}"),
        release=escape(document["release"]),
        machine=escape(f"{machine_name(document['machine'])}, {document['created']}; {measured(document)}"),
        alarm="".join(f'<p class="alarm">{escape(line)}</p>' for line in _alarms(document)),
        figures="".join(figures),
        latencies=_latencies(document),
        costs=_costs(rows),
        slowest="".join(_slowest(name, timed) for name, timed in document["layers"].items()),
        notes="".join(f"<li>{escape(line)}</li>" for line in notes(document)),
        conditions=_conditions(document),
    )


PARETO = (
    "Median milliseconds a frame, whiskers to p99, against the mean CC with PyTorch's fp32 maps. "
    "The line joins what nothing else beats in both."
)


def pareto(rows: Sequence[Row]) -> str:
    """Return the plot of latency and accuracy; in words, if there is no accuracy."""
    points = [
        (row["name"], row["p50_ms"] / row["batch"], row["p99_ms"] / row["batch"], row["accuracy"]["cc"])
        for row in rows
        if row["accuracy"]
    ]
    if not points:
        return "<p>Accuracy was not measured.</p>"
    height = 300
    least, most = min(p50 for _, p50, _, _ in points) / 1.5, max(p99 for *_, p99, _ in points) * 1.1
    x = svg.Axis(least, most, svg.LEFT, svg.WIDTH - svg.RIGHT, log=True)
    low, high = svg.span([cc for *_, cc in points], 0.25)
    if high - low < 1e-6:
        low, high = low - 1e-4, high + 1e-4
    y = svg.Axis(low, high, height - svg.BOTTOM, svg.TOP)
    out = [svg.axes(x, y, height, "ms a frame, logarithmic", "CC")]
    front = pareto_front([(p50, cc) for _, p50, _, cc in points])
    steps = [point for a, b in pairwise(front) for point in (a, (b[0], a[1]))]
    out.append(svg.line([*steps, front[-1]], x, y, "#888", "Pareto front", dashed=True))
    for index, (name, p50, p99, cc) in enumerate(points):
        colour, at, level = svg.COLOURS[index % len(svg.COLOURS)], x(p50), y(cc)
        out.append(svg.line([(p50, cc), (p99, cc)], x, y, colour, f"{name}: p50 to p99"))
        out.append(f'<circle cx="{at:.1f}" cy="{level:.1f}" r="5" fill="{colour}"/>')
        out.append(svg.text(at + 8, level - 8 if index % 2 else level + 17, name, style="name"))
    return svg.plot(height, "latency against accuracy", *out)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, worth) that no other has both cheaper and better, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front


def _distributions(rows: Sequence[Row]) -> str:
    times = [times_of(dict(row)).ravel().tolist() for row in rows]
    marks = [(row["p50_ms"], row["p99_ms"]) for row in rows]
    return svg.ridges([row["name"] for row in rows], times, marks, "ms a call, logarithmic")


def _timeline(document: Document) -> Iterator[str]:
    rows, conditions = document["latencies"], document["conditions"]
    points = conditions["timeline"]
    end = max([point["t_s"] for point in points] + [at for row in rows for at in row["turns_at_s"]])
    turns = {
        row["name"]: [
            (at, summarise(turn[None, :])["p50_ms"])
            for at, turn in zip(row["turns_at_s"], times_of(dict(row)), strict=True)
        ]
        for row in rows
    }
    drawn = svg.series(turns, 220, ("seconds", "ms, median of a turn"), (0.0, end))
    yield _figure("Over time", drawn + f"<p>{svg.key(list(turns))}</p>", "Each precision in its turns.")
    for what, word in (("temperatures_c", "degrees C"), ("clocks_mhz", "MHz")):
        names = sorted(points[0][what], key=lambda name: not any(w in name.lower() for w in ("gpu", "tj")))
        lines = {n: [(p["t_s"], p[what][n]) for p in points if n in p[what]] for n in names[:8]}
        title = "Temperatures" if what == "temperatures_c" else "Clocks"
        if lines and len(points) > 1:
            drawn = svg.series(lines, 200, ("seconds", word), (0.0, end))
            hot = [point["t_s"] for point in points if point["throttled"]]
            caption = f"Throttled from {hot[0]:.1f} s on." if hot else ""
            yield _figure(title, drawn + f"<p>{svg.key(list(lines))}</p>", caption)
        else:
            why = conditions["not_readable"].get(title.lower(), "read once only")
            yield _figure(title, f'<p class="soft">{escape(why)}</p>', "")


def _layers(document: Document) -> Iterator[str]:
    layers = document["layers"]
    if layers:
        names = list(layers)
        parts = svg.stacks(names, [layers[n]["parts_ms"] for n in names], "ms a call")
        yield _figure("Layers, by the student's parts", parts, "Medians under the engine's own profiler.")
        kinds = svg.stacks(names, [layers[n]["kinds_ms"] for n in names], "ms a call")
        yield _figure("Compute, and what conversions cost", kinds, "Casts, quantising, changes of layout.")


def _history(document: Document, past: Sequence[Document]) -> Iterator[str]:
    """Each row's median over this board's last measurements."""
    runs = [*past[-30:], document]
    if len(runs) < 2:
        return
    lines: dict[str, list[tuple[float, float]]] = {}
    for index, run in enumerate(runs):
        for row in run["latencies"]:
            lines.setdefault(row["name"], []).append((float(index + 1), row["p50_ms"]))
    drawn = svg.series(lines, 200, ("measurement", "p50, ms"), (1.0, float(len(runs))))
    yield _figure("This board's history", drawn + f"<p>{svg.key(list(lines))}</p>", "The last is this one.")


def _latencies(document: Document) -> str:
    against = {one["name"]: one for one in document["against"]}
    head = ("", "mean ms", "p50", "95 % of p50", "p90", "p99", "p99.9", "jitter", "std", "fps", "of fp32")
    body = []
    for row in document["latencies"]:
        low, high = row["intervals"]["p50_ms"]
        names = ("p90_ms", "p99_ms", "p99_9_ms", "jitter_ms", "std_ms")
        body.append(
            (
                row["name"] + ("*" if row["emulated"] else ""),
                number(row["mean_ms"]),
                number(row["p50_ms"]),
                f"{number(low)} to {number(high)}",
                *(number(row[name]) for name in names),
                f"{row['fps']:.0f}",
                gain(against.get(row["name"])),
            )
        )
    return _table(head, body)


def _costs(rows: Sequence[Row]) -> str:
    head = (
        "",
        "load ms",
        "first call ms",
        "KiB",
        "RSS MiB",
        "peak MiB",
        "W",
        "J a frame",
        "CC",
        "KLD",
        "NSS",
    )
    body = []
    for row in rows:
        used, found = row["energy"] or {}, row["accuracy"] or {}
        memory = [row[name] and row[name] / 2**20 for name in ("rss_growth_bytes", "rss_peak_bytes")]
        body.append(
            (
                row["name"],
                number(row["load_ms"]),
                number(row["first_call_ms"]),
                f"{row['size_bytes'] / 1024:.0f}",
                *(or_dash(value, ".1f") for value in memory),
                or_dash(used.get("power_w"), ".2f"),
                or_dash(used.get("joules_per_frame"), ".3g"),
                or_dash(found.get("cc"), ".5f"),
                or_dash(found.get("kld"), ".2g"),
                or_dash(found.get("nss"), ".3f"),
            )
        )
    return _table(head, body)


def _slowest(name: str, timed: Row) -> str:
    """The slowest layers, and all that is not computing: what precisions and layouts cost where they meet."""
    conversions = timed["conversions"]
    return _named_layers(name, timed, timed["slowest"]) + (
        _named_layers(f"{name}: conversions", timed, conversions) if conversions else ""
    )


def _named_layers(title: str, timed: Row, places: Sequence[str]) -> str:
    layers = {layer["name"]: layer for layer in timed["layers"]}
    body = [
        (
            place,
            one["op"],
            one["part"],
            one["kind"],
            one["precision"],
            number(one["ms"]),
            f"{one['share']:.1%}",
        )
        for place in places
        for one in [layers[place]]
    ]
    head = ("", "operator", "part", "kind", "precision", "ms", "share")
    return f"<h3>{escape(title)}</h3>{_table(head, body)}"


def _conditions(document: Document) -> str:
    machine, conditions = document["machine"], document["conditions"]
    known = {
        **{name.replace("_", " "): value for name, value in machine.items()},
        "threads": document["threads"],
        "governors": ", ".join(sorted(set(conditions["governors"].values()))),
        "clocks before, MHz": _listed(conditions["clocks_mhz"]["before"]),
        "clocks after, MHz": _listed(conditions["clocks_mhz"]["after"]),
        "highest degrees C": _listed(conditions["temperatures_c"]["highest"]),
        "throttled by": ", ".join(conditions["throttled"]),
        "load before": f"{conditions['load_average_before']:.2f}",
        "added by measuring": f"{document['overhead_us']:.2f} us a call",
        **document["versions"],
    }
    return "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in known.items() if value
    )


def _alarms(document: Document) -> Iterator[str]:
    if document["conditions"]["throttled"]:
        yield f"Throttled while measured: {', '.join(document['conditions']['throttled'])}."
    if modes := other_mode(document):
        yield f"{modes[0].upper()}{modes[1:]}."
    if document["interrupted"]:
        yield "Interrupted: what was measured by then."


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())


def _figure(title: str, drawing: str, caption: str) -> str:
    return f"<figure><h2>{escape(title)}</h2>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'
