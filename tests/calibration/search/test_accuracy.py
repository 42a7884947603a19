"""Tests of the accuracy budget."""

from __future__ import annotations

import pytest

from calibration.search.accuracy import AccuracyBudget, Quality
from edge.core.errors import InputError


def test_budget_fraction_is_that_of_the_tighter_limit() -> None:
    quality = Quality(30, 0.996, 0.002)
    assert AccuracyBudget.parse("cc=0.008").fraction_used(quality) == pytest.approx(0.5)
    assert AccuracyBudget.parse("cc=0.008, kld=0.001").fraction_used(quality) == pytest.approx(2)


def test_budget_text_that_is_not_understood_is_refused() -> None:
    for text in ("", "cc", "cc=0", "cc=2", "psnr=1", "cc=.1,cc=.2", "cc=nan"):
        with pytest.raises(InputError, match="is not understood"):
            AccuracyBudget.parse(text)


def test_maps_with_nan_exceed_every_budget() -> None:
    for budget in (AccuracyBudget(cc=0.005), AccuracyBudget(kld=0.005), AccuracyBudget(0.005, 0.005)):
        assert budget.fraction_used(Quality(float("nan"), float("nan"), float("nan"))) > 1
