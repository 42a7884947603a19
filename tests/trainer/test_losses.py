from __future__ import annotations

import math

import pytest
import torch

from trainer.losses import hard_label, kl_cc, mse
from trainer.models.student import saliency


def test_hard_labels_peak_at_one() -> None:
    density = torch.tensor([[[[0.0, 0.2], [0.4, 0.1]]]])
    torch.testing.assert_close(hard_label(density), density / 0.4)
    assert not hard_label(torch.zeros(1, 1, 2, 2)).any()


def test_mse_by_hand() -> None:
    target = torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]])
    assert mse(target, target).item() == 0
    assert mse(torch.zeros_like(target), target).item() == pytest.approx((0.25 + 1 + 0.0625) / 4)


def test_kl_cc_is_least_at_the_target() -> None:
    target = torch.rand(3, 1, 8, 8)
    assert kl_cc(target.log(), target * 5).item() == pytest.approx(0, abs=1e-4)
    assert kl_cc(torch.zeros_like(target), target).item() > 1  # uniform: CC is 0


def test_kl_by_hand() -> None:
    target = torch.tensor([[[[0.5, 0.5]]]])
    raw = torch.tensor([[[[0.25, 0.75]]]]).log()
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_cc(raw, target).item() == pytest.approx(kl + 1, abs=1e-4)  # a flat target: CC is 0


def test_an_empty_target_is_no_nan() -> None:
    raw = torch.rand(2, 1, 8, 8, requires_grad=True)
    for loss in (mse, kl_cc):
        value = loss(raw, torch.zeros(2, 1, 8, 8))
        value.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(value)
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()


def test_heads_give_densities() -> None:
    raw = torch.randn(2, 1, 8, 8)
    assert (saliency(raw, "density") >= 0).all()
    torch.testing.assert_close(
        torch.softmax(raw.flatten(1), 1),
        (m := saliency(raw, "log_density").flatten(1)) / m.sum(1, keepdim=True),
    )
