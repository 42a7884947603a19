"""Which precision flies: what was measured on the board, against what its owner asks for.

    policy = goal [ "within" bound { "and" bound } ]
    goal   = "fastest" | "closest"
    bound  = "cc" ">=" number | ( "p50" | "p99" ) "<=" number [ "ms" ] | "power" "<=" number [ "W" ]

`cc` is the least correlation of a golden map with PyTorch's; `p50` and `p99` are the engine's latency in
milliseconds; `power` is what the board takes while the engine is kept busy, in watts. "fastest" takes the
least p50 of those within all bounds, "closest" the greatest cc.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge.core.errors import CheckError, InputError

DEFAULT = "fastest within cc>=.995"
_EXAMPLE = "fastest within cc>=.995 and p99<=20ms"
_NUMBER = r"\s*(\d+\.?\d*|\.\d+)\s*"
_MS = rf"<={_NUMBER}(?:ms)?"
_BOUND = re.compile(rf"cc\s*>={_NUMBER}|p50\s*{_MS}|p99\s*{_MS}|power\s*<={_NUMBER}W?")
_NAMES: tuple[Literal["cc", "p50", "p99", "power"], ...] = ("cc", "p50", "p99", "power")


@dataclass(frozen=True)
class PrecisionMeasurement:
    """A precision as it was found on this board. With `refused` it cannot fly at all, and why."""

    precision: str
    cc: float
    p50_ms: float
    p99_ms: float
    refused: str | None = None
    power_w: float | None = None
    """None: no meter that can be read."""


@dataclass(frozen=True)
class PolicyBound:
    """`cc` at least, or `p50` or `p99` (ms) or `power` (W) at most, a number."""

    name: Literal["cc", "p50", "p99", "power"]
    value: float

    def broken(self, found: PrecisionMeasurement) -> str | None:
        """Return how what was found breaks the bound."""
        if self.name == "cc":
            return None if found.cc >= self.value else f"cc {found.cc:.4f} < {self.value:g}"
        if self.name == "power":
            if found.power_w is None:
                return "power is not known: no meter can be read"
            return None if found.power_w <= self.value else f"power {found.power_w:.1f} > {self.value:g} W"
        ms = found.p50_ms if self.name == "p50" else found.p99_ms
        return None if ms <= self.value else f"{self.name} {ms:.2f} > {self.value:g} ms"


@dataclass(frozen=True)
class PrecisionPolicy:
    """What to look for, within which bounds."""

    goal: Literal["fastest", "closest"]
    bounds: tuple[PolicyBound, ...]


def parse_policy(text: str) -> PrecisionPolicy:
    """Read a policy.

    Raises:
        InputError: it does not follow the grammar; where, and an example, are said.
    """
    match = re.fullmatch(r"\s*(fastest|closest)(?:\s+within\s+(.+?))?\s*", text)
    if match is None:
        raise InputError(f"policy {text!r}; expected one as {_EXAMPLE!r}, or with closest")
    bounds = []
    for part in re.split(r"\s+and\s+", match.group(2)) if match.group(2) else ():
        bound = _BOUND.fullmatch(part)
        if bound is None:
            raise InputError(
                f"policy {text!r}: {part!r} is no bound; expected cc>=.99, p50<=MS, p99<=MS or power<=W"
            )
        given = zip(_NAMES, bound.groups(), strict=True)
        bounds += [PolicyBound(name, float(value)) for name, value in given if value]
    goal: Literal["fastest", "closest"] = match.group(1)  # type: ignore[assignment]
    return PrecisionPolicy(goal, tuple(bounds))


def choose_precision(
    policy: PrecisionPolicy, found: Sequence[PrecisionMeasurement]
) -> tuple[PrecisionMeasurement, str]:
    """Return the precision that the policy takes, and why, in a line.

    Raises:
        CheckError: none is within its bounds; what is wrong with each is said.
    """
    wrong = {
        one.precision: one.refused or ", ".join(filter(None, (bound.broken(one) for bound in policy.bounds)))
        for one in found
    }
    fitting = [one for one in found if not wrong[one.precision]]
    others = "; ".join(f"{precision}: {why}" for precision, why in wrong.items() if why)
    if not fitting:
        raise CheckError(f"no precision may fly on this board ({others or 'the release has none'})")
    best = min(fitting, key=lambda one: one.p50_ms if policy.goal == "fastest" else -one.cc)
    why = f"{policy.goal} of {', '.join(one.precision for one in fitting)}"
    return best, f"{best.precision}: {why}{'; not ' + others if others else ''}"


def is_finite(found: PrecisionMeasurement) -> bool:
    """Say whether all that was measured is a number."""
    return all(map(math.isfinite, (found.cc, found.p50_ms, found.p99_ms)))
