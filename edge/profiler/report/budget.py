"""A budget: the most that a release may cost, in a file that machines read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml
from edge.profiler.measurement.document import Document

MOST = ("p99_ms", "mean_ms", "power_w")
LEAST = ("cc",)


@dataclass(frozen=True)
class ProfileBudget:
    """Bounds by what is measured, for all rows and for rows by name, which come before those for all."""

    everywhere: Mapping[str, float]
    by_name: Mapping[str, Mapping[str, float]]


def read(path: Path) -> ProfileBudget:
    """Read a TOML file: `p99_ms = 5` for every row, and tables such as `[int8]` for one.

    Raises:
        InputError: it cannot be read, or names what is not measured.
    """
    document = read_toml(path, "lines such as p99_ms = 5")
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    plain = {name: value for name, value in document.items() if name not in tables}
    if not any((plain, *tables.values())):
        raise InputError(f"{path} has no bound; expected lines such as p99_ms = 5")
    return ProfileBudget(_bounds(path, plain), {name: _bounds(path, table) for name, table in tables.items()})


def broken(budget: ProfileBudget, document: Document) -> Iterator[str]:
    """Yield what of the budget does not hold; what could not be measured does not hold."""
    names = {row["name"] for row in document["latencies"]}
    for name in budget.by_name:
        if name not in names:
            yield f"{name} was not measured"
    for row in document["latencies"]:
        for what, bound in {**budget.everywhere, **budget.by_name.get(row["name"], {})}.items():
            value = _measured(row, what)
            if value is None:
                why = f": {row['energy_why']}" if what == "power_w" else ""
                yield f"{row['name']} {what} was not measured{why}"
            elif (value < bound) if what in LEAST else (value > bound):
                sign = "at least" if what in LEAST else "at most"
                yield f"{row['name']} {what} is {value:.4g}, {sign} {bound:g} was asked for"


def _measured(row: Mapping[str, Any], what: str) -> float | None:
    place = {"power_w": row["energy"], "cc": row["accuracy"]}.get(what, row)
    return None if place is None else float(place[what])


def _bounds(path: Path, table: Mapping[str, Any]) -> dict[str, float]:
    for name, value in table.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if name not in (*MOST, *LEAST) or not number:
            raise InputError(
                f"{path}: {name} = {value!r} is no bound; expected numbers for {', '.join((*MOST, *LEAST))}"
            )
    return {name: float(value) for name, value in table.items()}
