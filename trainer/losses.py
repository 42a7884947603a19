"""Losses between a raw map and a density. All maps are (N, 1, H, W); all losses are means over N."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from trainer.models.student import Head

Loss = Literal["mse", "kl_cc"]
EPSILON = 1e-7


def hard_label(density: Tensor) -> Tensor:
    """Return the density divided by its maximum, as ground truth images are stored; 0 stays 0."""
    return density / density.amax(dim=(2, 3), keepdim=True).clamp_min(EPSILON)


def mse(raw: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error to a target in [0, 1]: SKD's loss (section III)."""
    return F.mse_loss(raw.float(), target)


def kl_cc(raw: Tensor, target: Tensor) -> Tensor:
    """Return KL(target || prediction) + (1 - CC) for a raw map that is a log-density.

    KL as in TinyHD (section 3.4), on maps that sum to one; CC is Pearson's correlation, as a loss in
    Droste et al., "Unified Image and Video Saliency Modeling", ECCV 2020.
    """
    log_p = raw.float().flatten(1).log_softmax(dim=1)
    q = target.flatten(1)
    q = q / q.sum(dim=1, keepdim=True).clamp_min(EPSILON)
    kl = (q * ((q + EPSILON).log() - log_p)).sum(dim=1)
    p = log_p.exp()
    p, q = p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True)
    cc = (p * q).sum(dim=1) / (p.norm(dim=1) * q.norm(dim=1)).clamp_min(1e-12)
    loss: Tensor = (kl + 1 - cc).mean()
    return loss


LOSSES = {"mse": mse, "kl_cc": kl_cc}
HEADS: dict[Loss, Head] = {"mse": "density", "kl_cc": "log_density"}
"""What the raw map of a network trained by this loss is."""
