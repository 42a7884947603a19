"""Verdicts on measured values: kept, broken or undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.bench.measurement.conditions import Conditions
from tests.bench.measurement.row import Reading, Row
from tests.bench.measurement.turns import Measurement

Answer = Literal["kept", "broken", "undecided"]

PRECISION = 0.03
"""Relative half width at which a benchmark may end: an interval shall also show later regressions."""


@dataclass(frozen=True)
class Verdict:
    """A measured value with its interval, judged by its bound.

    Attributes:
        label: What was measured.
        value: The value.
        low: Lower end of its interval of 95 %.
        high: Upper end.
        unit: Its unit; "" for none.
        bound: The bound; None for none.
        at_least: High values are good.
        goal: The goal; None for none.
        answer: The answer; None without a bound.
        reason: Why the answer is not what the interval alone would say; else empty.
    """

    label: str
    value: float
    low: float
    high: float
    unit: str
    bound: float | None
    at_least: bool
    goal: float | None = None
    answer: Answer | None = None
    reason: str = ""

    def describe(self) -> str:
        """Return the verdict as a sentence."""
        is_exact = self.low == self.high == self.value
        text = f"{self.label}: {self.value:.6g}" if is_exact else f"{self.label}: {_number(self.value)}"
        if not is_exact:
            ends = f"{_number(self.low)} to {_number(self.high)}"
            text += f" ({ends})" if math.isfinite(self.low + self.high) else " (too few values)"
        text += f" {self.unit}" if self.unit else ""
        sense = "at least" if self.at_least else "at most"
        if self.bound is not None:
            text += f", {sense} {self.bound:g}: {self.answer}{f', {self.reason}' if self.reason else ''}"
        if self.goal is not None:
            reached = _compare(self.low, self.high, self.goal, self.at_least)
            words = {"kept": "reached", "broken": "missed", "undecided": "undecided"}[reached]
            text += f"; goal {sense} {self.goal:g}: {words}"
        return text

    def to_document(self) -> dict[str, Any]:
        """Return the verdict for JSON; infinite ends are null."""
        return {
            "what": self.label,
            "value": self.value,
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "unit": self.unit,
            "bound": self.bound,
            "at_least": self.at_least,
            "goal": self.goal,
            "verdict": self.answer,
        }


def judge_row(row: Row, measurement: Measurement, conditions: Conditions) -> Verdict:
    """Judge a row by the turns of its contestants."""
    value, low, high = (row.scale * number for number in measurement.estimate(row.of, row.over))
    verdict = Verdict(row.label, value, low, high, row.unit, row.bound, row.at_least, row.goal)
    # A speed that changes slows both contestants of a ratio, whose order is drawn.
    return _judge(verdict, conditions.load if row.over else conditions.disturbance, row.load_flatters)


def judge_reading(reading: Reading, conditions: Conditions) -> Verdict:
    """Judge a value that was measured once; its interval is as wide as it assumes."""
    ends = reading.value / (1 + reading.spread), reading.value * (1 + reading.spread)
    verdict = Verdict(reading.label, reading.value, *ends, reading.unit, reading.bound, reading.at_least)
    # No load changes a size or an accuracy.
    return _judge(verdict, conditions.disturbance if reading.spread else "", load_flatters=False)


def is_decided(row: Row, measurement: Measurement) -> bool:
    """Return whether the bound is outside of the row's interval, and the interval narrow."""
    value, low, high = (row.scale * number for number in measurement.estimate(row.of, row.over))
    if row.bound is not None and _compare(low, high, row.bound, row.at_least) == "undecided":
        return False
    return high - low <= 2 * PRECISION * abs(value)


def confirm(first: Verdict, second: Verdict) -> Verdict:
    """Return the verdict on a row that looked broken and was measured again.

    It is broken if it looks broken both times, and undecided otherwise.
    """
    if second.answer == "broken":
        return second
    reason = f"it looked broken at first, with {_number(first.low)} to {_number(first.high)}"
    return replace(second, answer="undecided", reason=reason)


def _judge(verdict: Verdict, disturbance: str, load_flatters: bool) -> Verdict:
    """Add the answer. A busy machine makes us slow, so that it breaks nothing, and flatters few rows."""
    if verdict.bound is None:
        return verdict
    answer = _compare(verdict.low, verdict.high, verdict.bound, verdict.at_least)
    reason = ""
    if disturbance and (answer == "broken" or (answer == "kept" and load_flatters)):
        answer, reason = "undecided", f"it looks {answer}, but {disturbance}"
    return replace(verdict, answer=answer, reason=reason)


def _compare(low: float, high: float, bound: float, at_least: bool) -> Answer:
    if low >= bound if at_least else high <= bound:
        return "kept"
    if high < bound if at_least else low > bound:
        return "broken"
    return "undecided"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"  # 1234 and not 1.23e+03
