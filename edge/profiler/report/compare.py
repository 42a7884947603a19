"""Two measurements held against each other: which precision became faster or slower, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edge.core.errors import InputError
from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document
from edge.profiler.measurement.statistics import MARGIN, compare
from edge.profiler.report.documents import times_of


def verdicts(a: Document, b: Document) -> list[dict[str, Any]]:
    """Return the verdict on each row that both have, by name and form.

    Less than `MARGIN` is no difference: two runs of one release on one machine differ by as much.

    Raises:
        InputError: they have none in common.
    """
    before = {(row["name"], row["form"]): row for row in a["latencies"]}
    found = []
    for row in b["latencies"]:
        old = before.get((row["name"], row["form"]))
        if old is not None:
            verdict = compare(times_of(old), times_of(row), MARGIN)
            numbers = {"a_p50_ms": old["p50_ms"], "b_p50_ms": row["p50_ms"]}
            found.append({"name": row["name"], "form": row["form"], **numbers, **verdict._asdict()})
    if not found:
        raise InputError(
            f"nothing to compare: the first has {_rows(a)}, the second {_rows(b)}; expected the same "
            "precision, form and batch in both"
        )
    return found


def other_conditions(a: Document, b: Document) -> Iterator[str]:
    """Yield what differed beside the times: it may explain them."""
    for name, one, two in (
        ("release", a["release"], b["release"]),
        ("machine", machine_name(a["machine"]), machine_name(b["machine"])),
        ("system", a["machine"]["system"], b["machine"]["system"]),
        ("JetPack", a["machine"]["jetpack"], b["machine"]["jetpack"]),
        ("power mode", a["machine"]["power_mode"], b["machine"]["power_mode"]),
        ("threads", a["threads"], b["threads"]),
        ("governors", a["conditions"]["governors"], b["conditions"]["governors"]),
        ("protocol", a["protocol"], b["protocol"]),
    ):
        if one != two:
            yield f"{name}: {one} and {two}"
    before = {(row["name"], row["form"]): row for row in a["latencies"]}
    for row in b["latencies"]:
        old = before.get((row["name"], row["form"]))
        if old is not None and old["engine"] != row["engine"]:
            yield f"{row['name']}: on {old['engine']} and {row['engine']}"
        for word, one in (("first", old), ("second", row)):
            if old is not None and one is not None and not one["steady"]:
                yield f"{row['name']}: the {word} was not steady"
    yield from _other_clocks(a, b)
    hashes = a.get("graphs_sha256", {}), b.get("graphs_sha256", {})
    for name in sorted(hashes[0].keys() & hashes[1].keys()):
        if hashes[0][name] != hashes[1][name]:
            yield f"{name}: another graph"
    for name in sorted({*a["versions"], *b["versions"]}):
        one, two = a["versions"].get(name, "none"), b["versions"].get(name, "none")
        if one != two:
            yield f"{name}: {one} and {two}"
    for word, document in (("first", a), ("second", b)):
        if document["conditions"]["throttled"]:
            yield f"the {word} was throttled: {', '.join(document['conditions']['throttled'])}"
        load, cores = document["conditions"]["load_average_before"], document["machine"]["cores"]
        if load > cores / 2:
            yield f"the {word} was measured on a busy machine: load {load:.1f} on {cores} cores"


def _other_clocks(a: Document, b: Document) -> Iterator[str]:
    """Yield clocks that both could read, at the start of each, and that differ by more than `MARGIN`."""
    one, two = (document["conditions"]["timeline"][:1] for document in (a, b))
    for first, second in zip(one, two, strict=False):
        for name in sorted(first["clocks_mhz"].keys() & second["clocks_mhz"].keys()):
            low, high = sorted((first["clocks_mhz"][name], second["clocks_mhz"][name]))
            if high > low * (1 + MARGIN):
                yield f"{name}: {first['clocks_mhz'][name]:.0f} and {second['clocks_mhz'][name]:.0f} MHz"


def said(verdict: dict[str, Any]) -> str:
    """Return a verdict in a line."""
    change = f"{verdict['b_p50_ms']:.3f} ms after {verdict['a_p50_ms']:.3f}"
    ratio = f"{verdict['ratio']:.3f}x [{verdict['low']:.3f}, {verdict['high']:.3f}]"
    return f"{verdict['verdict']}, {verdict['confidence']:.1%} sure: {change}, {ratio}"


def _rows(document: Document) -> str:
    return ", ".join(f"{row['name']} {row['form']}" for row in document["latencies"]) or "nothing"
