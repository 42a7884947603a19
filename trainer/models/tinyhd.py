"""Students of TinyHD: Hu et al., "TinyHD: Efficient Video Saliency Prediction with Heterogeneous Decoders
using Hierarchical Maps Distillation", WACV 2023, arXiv 2301.04619, section 3.

They have one encoder, up to three decoders that join its levels in different ways, and one map that is fused
from the maps of all decoders. Student S returns one map per clip, student M sixteen. All widths are those of
the authors' published weights, which can be loaded (`trainer.models.published`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.models.mobilenet3d import CLIP_FRAMES, REDUCTIONS, MobileNet3D, Reduction, check_clip
from trainer.models.tinyhd_decoders import (
    LEVELS,
    AggregationDecoder3d,
    HierarchicalDecoder3d,
    TopDownDecoder3d,
)

__all__ = ["DECODERS", "LEVELS", "MAPS", "SaliencyMaps", "TinyHD", "Variant"]

Variant = Literal["S", "M"]
MAPS: dict[Variant, int] = {"S": 1, "M": CLIP_FRAMES}
"""Maps per clip."""
DECODERS = {"D1": HierarchicalDecoder3d, "D2": TopDownDecoder3d, "D3": AggregationDecoder3d}


class SaliencyMaps(NamedTuple):
    """Saliency maps in 0 to 1, (N, steps, H, W); the last belongs to the last frame of the clip.

    Attributes:
        fused: Map that is fused from all single maps.
        parts: Single maps by name: `x0` to `x3` (decoder D1, or a teacher's conspicuity maps), `d2`, `d3`.
            Those of D1 have one step. Without separate supervision, D2's and D3's may come out inverted, so
            they are not for display.
    """

    fused: Tensor
    parts: dict[str, Tensor]


class TinyHD(nn.Module):
    """Clip (N, 3, 16, H, W), RGB in -1 to 1, to saliency maps: one per clip (S) or 16 (M).

    Args:
        variant: S or M.
        rc: Channel reduction, the divisor of the encoder's widths.
        decoders: Which of the decoders D1, D2 and D3 to build; their order does not matter.

    Raises:
        InputError: An unknown variant, reduction or decoder, or no decoder; on call, a clip whose shape
            does not fit.
    """

    def __init__(
        self, variant: Variant, rc: Reduction = 1, decoders: Sequence[str] = tuple(DECODERS)
    ) -> None:
        super().__init__()
        known = variant in MAPS and rc in REDUCTIONS and set(decoders) <= set(DECODERS)
        if not known or not decoders or len(set(decoders)) != len(decoders):
            raise InputError(
                f"no TinyHD student {variant} at rc {rc} with decoders {', '.join(decoders) or 'none'}; "
                f"expected {' or '.join(MAPS)}, rc {', '.join(map(str, REDUCTIONS))}, "
                f"one or more of {', '.join(DECODERS)}, each once"
            )
        self.maps = MAPS[variant]
        self.encoder = MobileNet3D(rc, coarse_times=2 if variant == "S" else 1)
        channels = self.encoder.channels
        self.decoders = nn.ModuleDict(
            {name: DECODERS[name](channels, rc, self.maps) for name in sorted(decoders)}
        )
        singles = sum(len(LEVELS) if name == "D1" else 1 for name in decoders)
        self.fusion = nn.Conv3d(singles, 1, 1)

    def forward(self, clip: Tensor) -> SaliencyMaps:
        """Return the fused maps (N, steps, H, W) and the single maps."""
        check_clip(clip)
        features = self.encoder(clip)
        parts: dict[str, Tensor] = {}
        for decoder in self.decoders.values():
            parts |= {name: raw.sigmoid() for name, raw in decoder(features).items()}
        # D1 has one map per level for the whole clip.
        expanded = [part.expand(-1, -1, self.maps, -1, -1) for part in parts.values()]
        fused = self.fusion(torch.cat(expanded, dim=1)).sigmoid()
        return SaliencyMaps(fused[:, 0], {name: part[:, 0] for name, part in parts.items()})
