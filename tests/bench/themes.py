"""Themes of the benchmark."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from edge.core.errors import InputError
from tests.bench.measurement.row import AnyBenchmark

THEMES = {
    "students": "students:benchmarks",
    "engines": "engines:benchmarks",
    "preprocessing": "preprocessing:benchmarks",
    "sinks": "sinks:benchmarks",
    "flight": "flight:benchmarks",
    "live": "live:benchmarks",
    "profiler": "live:profiler_benchmarks",
    "metrics": "metrics:benchmarks",
    "simulation": "simulation:benchmarks",
}
"""Module and function of each theme of `make bench`. A module is imported when it is measured: a board lacks
what most of them need, such as torch."""
NAMED_THEMES = {
    "calibration": "calibration:benchmarks",
    "export": "calibration:export_benchmarks",
    "training": "training:benchmarks",
    "streams": "streams:benchmarks",
    "gpu": "gpu:benchmarks",
    "flash": "delivery:benchmarks",
    "fleet": "delivery:fleet_benchmarks",
    "long": "live:long_benchmarks",
}
"""Themes that are measured only by name: they take long, or need hardware."""


def check_themes(names: Sequence[str]) -> list[str]:
    """Return the named themes, or those of `make bench` if none is named.

    Raises:
        InputError: A theme is unknown.
    """
    known = {**THEMES, **NAMED_THEMES}
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"no theme {', '.join(unknown)}; expected some of {', '.join(known)}")
    return list(dict.fromkeys(names)) or [*THEMES]


def load_benchmarks(theme: str) -> Sequence[AnyBenchmark]:
    """Import the module of a theme and return its benchmarks.

    Raises:
        InputError: A package is missing.
    """
    module, _, function = {**THEMES, **NAMED_THEMES}[theme].partition(":")
    try:
        benchmarks: Sequence[AnyBenchmark] = getattr(
            importlib.import_module(f"tests.bench.rows.{module}"), function
        )()
    except ModuleNotFoundError as error:
        raise InputError(f"theme {theme} needs the package {error.name}, which is not installed") from None
    return benchmarks
