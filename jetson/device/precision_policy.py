"""Policy that selects the precision to fly from measurements on the board.

    policy = goal [ "within" bound { "and" bound } ]
    goal   = "fastest" | "closest"
    bound  = "cc" ">=" number | ( "p50" | "p99" ) "<=" number [ "ms" ] | "power" "<=" number [ "W" ]

`cc` is the lowest correlation of a golden map with the map of PyTorch. `p50` and `p99` are percentiles of the
engine's latency in milliseconds. `power` is the power of the board in watts while the engine is kept busy.
"fastest" selects the lowest p50 of the precisions within all bounds, "closest" the highest cc.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge.core.errors import CheckError, InputError

DEFAULT_POLICY = "fastest within cc>=0.995"
_EXAMPLE = "fastest within cc>=0.995 and p99<=20ms"
_NUMBER = r"\s*(\d+\.?\d*|\.\d+)\s*"
_MS = rf"<={_NUMBER}(?:ms)?"
_BOUND = re.compile(rf"cc\s*>={_NUMBER}|p50\s*{_MS}|p99\s*{_MS}|power\s*<={_NUMBER}W?")
_METRICS: tuple[Literal["cc", "p50", "p99", "power"], ...] = ("cc", "p50", "p99", "power")


@dataclass(frozen=True)
class PrecisionMeasurement:
    """Measurement of one precision on this board. The fields are keys of the board's `state.json`.

    Attributes:
        precision: fp32, fp16 or int8.
        cc: Lowest correlation of a golden map with its expected map.
        p50_ms: Median latency.
        p99_ms: 99th percentile of the latency.
        refused: Why the precision cannot be run at all; None if it can.
        power_w: Power of the board under load; None if there is no readable meter.
        open_s: Seconds to open the engine and to check its golden maps; None if that was not measured, as by
            older versions. The first precision of a trial starts CUDA and TensorRT, too.
        start_s: Seconds from the start of a new process to its first map; only of the precision that flies,
            and only on a board with a service. The time limits of the service derive from it.
    """

    precision: str
    cc: float
    p50_ms: float
    p99_ms: float
    refused: str | None = None
    power_w: float | None = None
    open_s: float | None = None
    start_s: float | None = None


@dataclass(frozen=True)
class PolicyBound:
    """Bound of a policy: a minimum for cc, a maximum for p50 (ms), p99 (ms) and power (W)."""

    name: Literal["cc", "p50", "p99", "power"]
    value: float

    def violation(self, measurement: PrecisionMeasurement) -> str | None:
        """Return how a measurement violates the bound, or None if it does not."""
        if self.name == "cc":
            cc = measurement.cc
            return None if cc >= self.value else f"cc {cc:.4f} < {self.value:g}"
        if self.name == "power":
            power = measurement.power_w
            if power is None:
                return "power is not known: no meter can be read"
            return None if power <= self.value else f"power {power:.1f} > {self.value:g} W"
        ms = measurement.p50_ms if self.name == "p50" else measurement.p99_ms
        return None if ms <= self.value else f"{self.name} {ms:.2f} > {self.value:g} ms"


@dataclass(frozen=True)
class PrecisionPolicy:
    """Goal of the selection and the bounds that a precision must keep."""

    goal: Literal["fastest", "closest"]
    bounds: tuple[PolicyBound, ...]


def parse_policy(text: str) -> PrecisionPolicy:
    """Parse a policy.

    Raises:
        InputError: The text does not follow the grammar.
    """
    match = re.fullmatch(r"\s*(fastest|closest)(?:\s+within\s+(.+?))?\s*", text)
    if match is None:
        raise InputError(f"policy {text!r}; expected {_EXAMPLE!r}, or 'closest' for 'fastest'")
    bounds = []
    for part in re.split(r"\s+and\s+", match.group(2)) if match.group(2) else ():
        bound = _BOUND.fullmatch(part)
        if bound is None:
            raise InputError(
                f"policy {text!r}: {part!r} is not a bound; expected cc>=0.99, p50<=MS, p99<=MS or power<=W"
            )
        values = zip(_METRICS, bound.groups(), strict=True)
        bounds += [PolicyBound(name, float(value)) for name, value in values if value]
    goal: Literal["fastest", "closest"] = match.group(1)  # type: ignore[assignment]
    return PrecisionPolicy(goal, tuple(bounds))


def choose_precision(
    policy: PrecisionPolicy, measurements: Sequence[PrecisionMeasurement]
) -> tuple[PrecisionMeasurement, str]:
    """Select the precision that the policy prefers.

    Returns:
        The measurement of that precision, and the reason as one line.

    Raises:
        CheckError: No precision is within the bounds. The message gives the reason for each.
    """
    problems = {
        measurement.precision: measurement.refused
        or ", ".join(filter(None, (bound.violation(measurement) for bound in policy.bounds)))
        for measurement in measurements
    }
    allowed = [measurement for measurement in measurements if not problems[measurement.precision]]
    rejected = "; ".join(f"{precision}: {problem}" for precision, problem in problems.items() if problem)
    if not allowed:
        raise CheckError(f"no precision may fly on this board ({rejected or 'the release has none'})")
    best = min(allowed, key=lambda candidate: candidate.p50_ms if policy.goal == "fastest" else -candidate.cc)
    reason = f"{policy.goal} of {', '.join(measurement.precision for measurement in allowed)}"
    return best, f"{best.precision}: {reason}{'; not ' + rejected if rejected else ''}"


def is_finite(measurement: PrecisionMeasurement) -> bool:
    """Return whether cc, p50 and p99 are finite numbers."""
    return all(map(math.isfinite, (measurement.cc, measurement.p50_ms, measurement.p99_ms)))
