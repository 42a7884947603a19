"""Comparison of two profiles: which precision became faster or slower, and what else differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge.core.errors import InputError
from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document
from edge.profiler.measurement.machine_load import describe_busy_machine
from edge.profiler.measurement.statistics import MARGIN, compare_medians
from edge.profiler.report.documents import row_times


def compare_documents(a: Document, b: Document) -> list[dict[str, Any]]:
    """Return the verdict on each row that both profiles have, by name and form.

    A change of less than `MARGIN` is no difference: two runs of one release on one machine differ by as much.
    If one of them was measured on a busy machine, nothing is decided: the other processes may be the reason.

    Raises:
        InputError: The profiles have no row in common.
    """
    rows_a = {(row["name"], row["form"]): row for row in a["latencies"]}
    is_busy = any(describe_busy_machine(document) for document in (a, b))
    comparisons = []
    for row_b in b["latencies"]:
        row_a = rows_a.get((row_b["name"], row_b["form"]))
        if row_a is not None:
            verdict = compare_medians(row_times(row_a), row_times(row_b), MARGIN)
            if is_busy:
                verdict = verdict._replace(verdict="undecided", confidence=0.0)
            comparisons.append(
                {
                    "name": row_b["name"],
                    "form": row_b["form"],
                    "a_p50_ms": row_a["p50_ms"],
                    "b_p50_ms": row_b["p50_ms"],
                    **verdict._asdict(),
                    "busy": is_busy,
                }
            )
    if not comparisons:
        raise InputError(
            f"nothing to compare: the first has {_list_rows(a)}, the second {_list_rows(b)}; expected "
            "the same precision, form and batch in both"
        )
    return comparisons


def differing_conditions(a: Document, b: Document) -> Iterator[str]:
    """Yield a line for each condition that differs and so may explain a change of the latency."""
    for name, value_a, value_b in (
        ("release", a["release"], b["release"]),
        ("machine", machine_name(a["machine"]), machine_name(b["machine"])),
        ("system", a["machine"]["system"], b["machine"]["system"]),
        ("JetPack", a["machine"]["jetpack"], b["machine"]["jetpack"]),
        ("power mode", a["machine"]["power_mode"], b["machine"]["power_mode"]),
        ("threads", a["threads"], b["threads"]),
        ("governors", a["conditions"]["governors"], b["conditions"]["governors"]),
        ("protocol", a["protocol"], b["protocol"]),
    ):
        if value_a != value_b:
            yield f"{name}: {value_a} and {value_b}"
    yield from _differing_rows(a, b)
    yield from _differing_clocks(a, b)
    graphs_a, graphs_b = a.get("graphs_sha256", {}), b.get("graphs_sha256", {})
    for name in sorted(graphs_a.keys() & graphs_b.keys()):
        if graphs_a[name] != graphs_b[name]:
            yield f"{name}: another graph"
    for name in sorted({*a["versions"], *b["versions"]}):
        version_a, version_b = a["versions"].get(name, "none"), b["versions"].get(name, "none")
        if version_a != version_b:
            yield f"{name}: {version_a} and {version_b}"
    for ordinal, document in (("first", a), ("second", b)):
        if document["conditions"]["throttled"]:
            yield f"the {ordinal} was throttled: {', '.join(document['conditions']['throttled'])}"
        if used := describe_busy_machine(document):
            yield f"the {ordinal} was measured on a busy machine: {used}"


def _differing_rows(a: Document, b: Document) -> Iterator[str]:
    """Yield the rows on another engine, and those that were not steady."""
    rows_a = {(row["name"], row["form"]): row for row in a["latencies"]}
    for row_b in b["latencies"]:
        row_a = rows_a.get((row_b["name"], row_b["form"]))
        if row_a is None:
            continue
        if row_a["engine"] != row_b["engine"]:
            yield f"{row_b['name']}: on {row_a['engine']} and {row_b['engine']}"
        for ordinal, row in (("first", row_a), ("second", row_b)):
            if not row["steady"]:
                yield f"{row_b['name']}: the {ordinal} was not steady"


def _differing_clocks(a: Document, b: Document) -> Iterator[str]:
    """Yield the clocks that both could read at their start and that differ by more than `MARGIN`."""
    starts_a, starts_b = (document["conditions"]["timeline"][:1] for document in (a, b))
    for start_a, start_b in zip(starts_a, starts_b, strict=False):
        for name in sorted(start_a["clocks_mhz"].keys() & start_b["clocks_mhz"].keys()):
            clock_a, clock_b = start_a["clocks_mhz"][name], start_b["clocks_mhz"][name]
            if max(clock_a, clock_b) > min(clock_a, clock_b) * (1 + MARGIN):
                yield f"{name}: {clock_a:.0f} and {clock_b:.0f} MHz"


def format_comparison(comparison: dict[str, Any]) -> str:
    """Return a comparison as one line."""
    change = f"{comparison['b_p50_ms']:.3f} ms after {comparison['a_p50_ms']:.3f}"
    ratio = f"{comparison['ratio']:.3f}x [{comparison['low']:.3f}, {comparison['high']:.3f}]"
    if comparison["busy"]:
        return f"no verdict, because the machine was busy: {change}, {ratio}"
    return f"{comparison['verdict']}, {comparison['confidence']:.1%} sure: {change}, {ratio}"


def _list_rows(document: Document) -> str:
    return ", ".join(f"{row['name']} {row['form']}" for row in document["latencies"]) or "nothing"
