from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.metrics import cc, kld, max_error


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(0, 10))
def test_cc_is_numpys_and_ignores_scale_and_offset(seed: int, scale: float, offset: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 9, 16))
    assert cc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert cc(a * scale + offset, b) == pytest.approx(cc(a, b), abs=1e-9)


def test_cc_of_a_constant_map_is_zero() -> None:
    assert cc(np.ones((4, 4)), np.eye(4)) == 0


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_kld_is_never_negative_and_ignores_scale(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 9, 16))
    assert kld(a, a) == pytest.approx(0, abs=1e-12)
    assert kld(a, b) > 0
    assert kld(a * scale, b) == pytest.approx(kld(a, b), rel=1e-9)


def test_kld_by_hand() -> None:
    assert kld(np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])) == pytest.approx(
        0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    )


def test_max_error_shows_nan() -> None:
    assert max_error(np.array([[1.0, 2.0]]), np.array([[1.0, 2.5]])) == 0.5
    assert np.isnan(max_error(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])))
