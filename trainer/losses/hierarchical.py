"""TinyHD's losses, which distil saliency maps level by level.

Hu et al., "TinyHD: Efficient Video Saliency Prediction with Heterogeneous Decoders using Hierarchical Maps
Distillation", WACV 2023, arXiv 2301.04619, section 3.4. All maps are (N, steps, H, W) with the same size and
need not sum to 1.
"""

from __future__ import annotations

from torch import Tensor

from trainer.losses.saliency import EPSILON
from trainer.models.tinyhd import SaliencyMaps


def kl(target: Tensor, prediction: Tensor) -> Tensor:
    """Return KL(target || prediction) of maps divided by their sums, averaged over steps and clips.

    An empty target gives zero and no gradient: a frame that nobody looked at, or a clip without label.
    """
    assert target.shape == prediction.shape, (target.shape, prediction.shape)
    q, p = _density(target.detach()), _density(prediction)
    divergences: Tensor = (q * ((q + EPSILON).log() - (p + EPSILON).log())).sum(dim=(2, 3))
    return divergences.mean()


def hierarchical_loss(
    student: SaliencyMaps, teacher: SaliencyMaps, truth: Tensor, supervision: float = 0.0
) -> Tensor:
    """Return KL(truth, y) + KL(teacher, y) + the sum of KL over the single maps that both networks have.

    With HD2S as the teacher these are four: its conspicuity maps, shallow to deep, and D1's x0 to x3. With a
    teacher assistant, a TinyHD student of smaller rc, they are all six. A teacher's map with more steps than
    the student's (D1 of variant M) is averaged over time.

    Args:
        student: Maps of the student.
        teacher: Maps of the teacher.
        truth: Fixation densities; empty for clips without label, which learn from the teacher alone.
        supervision: Weight of KL(truth, d2) and of KL(truth, d3). The paper has no such terms; the authors'
            code offers them with weight 0.5.
    """
    loss = kl(truth, student.fused) + kl(teacher.fused, student.fused)
    for name, part in student.parts.items():
        if name in teacher.parts:
            loss = loss + kl(_match_steps(teacher.parts[name], part), part)
        if supervision and name in ("d2", "d3"):
            loss = loss + supervision * kl(truth, part)
    return loss


def truth_loss(student: SaliencyMaps, truth: Tensor, supervision: float = 0.0) -> Tensor:
    """Return KL(truth, y) + `supervision` times the sum of KL(truth, map) over the single maps."""
    loss = kl(truth, student.fused)
    for part in student.parts.values() if supervision else ():
        loss = loss + supervision * kl(_match_steps(truth, part), part)
    return loss


def _density(maps: Tensor) -> Tensor:
    maps = maps.float()
    return maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(EPSILON)


def _match_steps(target: Tensor, prediction: Tensor) -> Tensor:
    return target if target.shape[1] == prediction.shape[1] else target.mean(dim=1, keepdim=True)
