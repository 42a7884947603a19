"""Losses between raw maps and densities, against values by hand and against the metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edge.metrics import saliency as metrics
from trainer.losses.saliency import cc, hard_label, kl_cc, mse, nss
from trainer.models.student import raw_to_saliency


def test_hard_label_has_a_peak_of_one() -> None:
    density = torch.tensor([[[[0.0, 0.2], [0.4, 0.1]]]])
    torch.testing.assert_close(hard_label(density), density / 0.4)
    assert not hard_label(torch.zeros(1, 1, 2, 2)).any()


def test_mse_matches_values_by_hand() -> None:
    target = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
    assert mse(target, target).item() == 0
    assert mse(torch.zeros_like(target), target).item() == pytest.approx((0.25 + 1 + 0.0625) / 4)


def test_kl_cc_is_zero_at_the_target() -> None:
    target = torch.rand(3, 1, 8, 8)
    assert kl_cc(target.log(), target * 5).item() == pytest.approx(0, abs=1e-4)
    assert kl_cc(torch.zeros_like(target), target).item() > 1  # uniform: CC is 0


def test_kl_matches_value_by_hand() -> None:
    target = torch.tensor([[[[0.5, 0.5]]]])
    raw = torch.tensor([[[[0.25, 0.75]]]]).log()
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_cc(raw, target).item() == pytest.approx(kl + 1, abs=1e-4)  # a flat target: CC is 0


def test_cc_matches_numpy() -> None:
    p, q = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 0.0, 0.25, 0.75])
    raw, target = (torch.tensor(np.array(v), dtype=torch.float32).reshape(1, 1, 2, 2) for v in (np.log(p), q))
    assert cc(raw, 3 * target).item() == pytest.approx(1 - np.corrcoef(p, q)[0, 1], abs=1e-5)
    both = torch.cat([raw, raw]), torch.cat([target, torch.tensor(p).float().reshape(1, 1, 2, 2)])
    assert cc(*both).item() == pytest.approx((1 - np.corrcoef(p, q)[0, 1]) / 2, abs=1e-5)


def test_nss_equals_the_metric_for_fixations_in_the_proportions_of_the_target() -> None:
    saliency = np.random.default_rng(0).random((6, 8))
    fixations = np.array([[0, 1], [0, 1], [3, 7], [5, 2]])
    target = np.zeros((6, 8))
    np.add.at(target, tuple(fixations.T), 1)
    raw = torch.tensor(np.log(saliency), dtype=torch.float32)[None, None]
    loss = nss(raw, torch.tensor(target, dtype=torch.float32)[None, None])
    assert loss.item() == pytest.approx(-metrics.nss(saliency, fixations), abs=1e-4)


def test_empty_target_gives_finite_loss_and_gradient() -> None:
    raw = torch.rand(2, 1, 8, 8, requires_grad=True)
    for loss in (mse, kl_cc, cc, nss):
        value = loss(raw, torch.zeros(2, 1, 8, 8))
        value.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(value)
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()


def test_saliency_of_both_heads_is_a_density_up_to_a_factor() -> None:
    raw = torch.randn(2, 1, 8, 8)
    assert (raw_to_saliency(raw, "density") >= 0).all()
    torch.testing.assert_close(
        torch.softmax(raw.flatten(1), 1),
        (m := raw_to_saliency(raw, "log_density").flatten(1)) / m.sum(1, keepdim=True),
    )
