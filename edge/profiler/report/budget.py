"""Budget of a profile: bounds on latency, power and accuracy, read from a TOML file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml
from edge.profiler.measurement.document import Document, Row

UPPER_BOUNDS = ("p99_ms", "mean_ms", "power_w")
LOWER_BOUNDS = ("cc",)


@dataclass(frozen=True)
class ProfileBudget:
    """Bounds by metric.

    Attributes:
        all_rows: Bounds of every row.
        by_row: Bounds of single rows by their names; they replace those of every row.
    """

    all_rows: Mapping[str, float]
    by_row: Mapping[str, Mapping[str, float]]


def read_budget(path: Path) -> ProfileBudget:
    """Read a TOML file: `p99_ms = 5` for every row, and tables such as `[int8]` for one.

    Raises:
        InputError: The file cannot be read, or names a metric that has no bound.
    """
    document = read_toml(path, "lines such as p99_ms = 5")
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    top_level = {name: value for name, value in document.items() if name not in tables}
    if not any((top_level, *tables.values())):
        raise InputError(f"{path} has no bound; expected lines such as p99_ms = 5")
    return ProfileBudget(
        _parse_bounds(path, top_level), {name: _parse_bounds(path, table) for name, table in tables.items()}
    )


def find_violations(budget: ProfileBudget, document: Document) -> Iterator[str]:
    """Yield a line for each bound that is broken; a value that was not measured breaks its bound."""
    names = {row["name"] for row in document["latencies"]}
    for name in budget.by_row:
        if name not in names:
            yield f"{name} was not measured"
    for row in document["latencies"]:
        bounds = {**budget.all_rows, **budget.by_row.get(row["name"], {})}
        for metric, bound in bounds.items():
            value = _measured_value(row, metric)
            if value is None:
                reason = f": {row['energy_why']}" if metric == "power_w" else ""
                yield f"{row['name']} {metric} was not measured{reason}"
            elif (value < bound) if metric in LOWER_BOUNDS else (value > bound):
                limit = "at least" if metric in LOWER_BOUNDS else "at most"
                yield f"{row['name']} {metric} is {value:.4g}; the budget is {limit} {bound:g}"


def _measured_value(row: Row, metric: str) -> float | None:
    values = {"power_w": row["energy"], "cc": row["accuracy"]}.get(metric, row)
    return None if values is None else float(values[metric])


def _parse_bounds(path: Path, table: Mapping[str, Any]) -> dict[str, float]:
    for name, value in table.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if name not in (*UPPER_BOUNDS, *LOWER_BOUNDS) or not is_number:
            expected = ", ".join((*UPPER_BOUNDS, *LOWER_BOUNDS))
            raise InputError(f"{path}: {name} = {value!r} is no bound; expected numbers for {expected}")
    return {name: float(value) for name, value in table.items()}
