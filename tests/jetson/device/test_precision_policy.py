"""Policies: parsing, and selection of a precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.core.errors import CheckError, InputError
from jetson.device.precision_policy import (
    PolicyBound,
    PrecisionMeasurement,
    PrecisionPolicy,
    choose_precision,
    parse_policy,
)

FP32, FP16 = PrecisionMeasurement("fp32", 1.0, 8.0, 9.0), PrecisionMeasurement("fp16", 0.9999, 5.0, 30.0)
INT8 = PrecisionMeasurement("int8", 0.99, 4.0, 5.0)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("fastest", PrecisionPolicy("fastest", ())),
        ("  closest  ", PrecisionPolicy("closest", ())),
        ("fastest within cc>=.995", PrecisionPolicy("fastest", (PolicyBound("cc", 0.995),))),
        (
            "fastest within cc >= 0.995 and p99<=20ms and p50 <= 8",
            PrecisionPolicy(
                "fastest", (PolicyBound("cc", 0.995), PolicyBound("p99", 20.0), PolicyBound("p50", 8.0))
            ),
        ),
        (
            "fastest within power<=7.5W and power <= 9",
            PrecisionPolicy("fastest", (PolicyBound("power", 7.5), PolicyBound("power", 9.0))),
        ),
    ],
)
def test_parse_policy_returns_goal_and_bounds(text: str, policy: PrecisionPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    "text",
    ["", "best", "fastest cc>=1", "fastest within", "fastest within cc<=.9", "fastest within p99>=2",
     "fastest or", "fastest within cc>=.9ms", "fastest within cc>=.9 and", "fastest within cc>=nan",
     "fastest within cc>=.9, p99<=2", "fastest within power>=2", "fastest within power<=7ms",
     "fastest within kld<=1", "fastest within cc>=-1"],
)  # fmt: skip
def test_parse_policy_rejects_other_texts(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fastest", "int8"),
        ("closest", "fp32"),
        ("fastest within cc>=.995", "fp16"),
        ("fastest within cc>=.995 and p99<=20", "fp32"),
        ("closest within p50<=5", "fp16"),
    ],
)
def test_choose_precision_follows_the_policy(text: str, expected: str) -> None:
    best, why = choose_precision(parse_policy(text), [FP32, FP16, INT8])
    assert best.precision == expected
    assert why.startswith(f"{expected}: ")


def test_reason_names_the_rejected_precisions() -> None:
    _, why = choose_precision(parse_policy("fastest within cc>=.995"), [FP32, FP16, INT8])
    assert why == "fp16: fastest of fp32, fp16; not int8: cc 0.9900 < 0.995"


def test_power_bound_rejects_high_and_unknown_power() -> None:
    bound = parse_policy("fastest within power<=7")
    hungry, frugal = replace(INT8, power_w=7.5), replace(FP16, power_w=6.5)
    best, why = choose_precision(bound, [FP32, frugal, hungry])
    assert best == frugal
    assert "fp32: power is not known: no meter can be read; int8: power 7.5 > 7 W" in why


def test_choose_precision_raises_with_a_reason_per_precision() -> None:
    with pytest.raises(CheckError, match=r"fp32: p99 9\.00 > 1 ms.*int8: .*p99 5\.00 > 1 ms"):
        choose_precision(parse_policy("fastest within cc>=.995 and p99<=1"), [FP32, INT8])
    with pytest.raises(CheckError, match="the release has none"):
        choose_precision(parse_policy("fastest"), [])
