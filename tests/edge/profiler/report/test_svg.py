"""Axes of the plots."""

from __future__ import annotations

import re

from edge.profiler.report.svg import Axis, axes, series


def tick_labels(drawing: str, anchor: str) -> list[str]:
    return re.findall(rf'text-anchor="{anchor}">([^<]+)</text>', drawing)


def test_ticks_of_an_axis_have_the_same_number_of_decimals() -> None:
    drawing = axes(Axis(0, 3, 72, 400), Axis(0.9995, 1.0001, 200, 10), 240, "x", "CC")
    assert tick_labels(drawing, "end") == ["0.9996", "0.9998", "1.0000"]
    assert tick_labels(drawing, "middle")[:4] == ["0", "1", "2", "3"]


def test_logarithmic_ticks_are_short() -> None:
    drawing = axes(Axis(0.15, 30, 72, 400, log=True), None, 100, "ms")
    assert tick_labels(drawing, "middle")[:-1] == ["0.2", "0.5", "1", "2", "5", "10", "20"]


def test_number_of_a_measurement_is_whole() -> None:
    drawing = series({"int8": [(1.0, 2.0), (2.0, 3.0)]}, 200, ("measurement", "ms"), (1.0, 2.0), whole_x=True)
    assert tick_labels(drawing, "middle")[:2] == ["1", "2"]
    assert "1.5" not in tick_labels(drawing, "middle")
