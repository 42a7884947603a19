"""Losses between a raw map and a density. All maps are (N, 1, H, W), and all losses are means over N."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trainer.models.student import Head

Loss = Literal["mse", "kl_cc", "cc", "nss"]
EPSILON = 1e-7


def hard_label(density: Tensor) -> Tensor:
    """Return the density divided by its maximum, as in ground truth images; an empty density stays empty."""
    return density / density.amax(dim=(2, 3), keepdim=True).clamp_min(EPSILON)


def mse(raw: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error to a target in [0, 1], SKD's loss (section III)."""
    return F.mse_loss(raw.float(), target)


def kl_cc(raw: Tensor, target: Tensor) -> Tensor:
    """Return KL(target || prediction) + (1 - CC) for a raw map that is a log-density.

    KL is that of TinyHD (section 3.4), on maps that sum to 1. CC is Pearson's correlation, used as a loss by
    Droste et al., "Unified Image and Video Saliency Modeling", ECCV 2020.
    """
    log_p, q = _log_density(raw), _density(target)
    kl = (q * ((q + EPSILON).log() - log_p)).sum(dim=1)
    loss: Tensor = (kl + 1 - _correlation(log_p.exp(), q)).mean()
    return loss


def cc(raw: Tensor, target: Tensor) -> Tensor:
    """Return 1 - CC for a raw map that is a log-density, where CC is Pearson's correlation.

    It is one of three terms in Droste et al., "Unified Image and Video Saliency Modeling", ECCV 2020.
    """
    loss: Tensor = (1 - _correlation(_log_density(raw).exp(), _density(target))).mean()
    return loss


def nss(raw: Tensor, target: Tensor) -> Tensor:
    """Return -NSS for a raw map that is a log-density, the negative mean z-score where viewers look.

    Fixations are assumed to be drawn from the target, so the mean over them is an expectation. The standard
    deviation is over all pixels, plus an epsilon. NSS is by Peters et al. (Vision Research 2005). As a loss
    on fixations it is a term in Wang et al., "Revisiting Video Saliency", CVPR 2018.
    """
    p, q = _log_density(raw).exp(), _density(target)
    z = (p - p.mean(dim=1, keepdim=True)) / (p.std(dim=1, keepdim=True, correction=0) + EPSILON)
    loss: Tensor = -(z * q).sum(dim=1).mean()
    return loss


def _log_density(raw: Tensor) -> Tensor:
    return raw.float().flatten(1).log_softmax(dim=1)


def _density(target: Tensor) -> Tensor:
    q = target.flatten(1)
    return q / q.sum(dim=1, keepdim=True).clamp_min(EPSILON)


def _correlation(p: Tensor, q: Tensor) -> Tensor:
    """Return CC (N,) of densities (N, M)."""
    p, q = p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True)
    correlation: Tensor = (p * q).sum(dim=1) / (p.norm(dim=1) * q.norm(dim=1)).clamp_min(1e-12)
    return correlation


LOSSES = {"mse": mse, "kl_cc": kl_cc, "cc": cc, "nss": nss}
HEAD_BY_LOSS: dict[Loss, Head] = {
    "mse": "density",
    "kl_cc": "log_density",
    "cc": "log_density",
    "nss": "log_density",
}
"""Meaning of the raw map of a network that is trained with each loss."""
