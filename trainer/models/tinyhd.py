"""Students of TinyHD: Hu et al., "TinyHD: Efficient Video Saliency Prediction with Heterogeneous Decoders
using Hierarchical Maps Distillation", WACV 2023, arXiv 2301.04619, section 3.

They have one encoder, up to three decoders that join its levels in different ways, and one map that is fused
from the maps of all decoders. Student S returns one map per clip, student M sixteen. The widths of the
decoders are our choice: they match the published sizes and work at each channel reduction
(docs/explanation/networks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.models.mobilenet3d import (
    CLIP_FRAMES,
    REDUCTIONS,
    MobileNet3D,
    Reduction,
    Triple,
    check_clip,
    conv_norm,
    inverted_residual,
)

Variant = Literal["S", "M"]
MAPS: dict[Variant, int] = {"S": 1, "M": CLIP_FRAMES}
"""Maps per clip."""
LEVELS = ("x0", "x1", "x2", "x3")
"""Names of the encoder's levels, finest first, and of the maps made from a single level."""
EXPANSION = 2
_DECODER_WIDTHS: dict[Reduction, tuple[int, int, int, int]] = {
    1: (18, 60, 96, 256),
    2: (20, 48, 80, 160),
    4: (12, 48, 64, 80),
    8: (8, 24, 32, 40),
}
"""Channels of the decoders at levels x0 to x3."""


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


class _Level3d(NamedTuple):
    channels: int
    width: int
    times: int


def _lateral(level: _Level3d) -> nn.Sequential:
    return nn.Sequential(*conv_norm(level.channels, level.width))


def _descent(coarse: _Level3d, fine: _Level3d) -> nn.Sequential:
    return inverted_residual(coarse.width, fine.width, EXPANSION, coarse.times)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="trilinear")


class _Head(nn.Module):
    """Head from features of level x0 to one raw map per clip, or one per frame, at the size of the clip."""

    def __init__(self, level: _Level3d, maps: int) -> None:
        super().__init__()
        self._per_frame = maps > 1
        times = maps if self._per_frame else level.times
        self.block = inverted_residual(level.width, 1, EXPANSION, times, collapse=not self._per_frame)

    def forward(self, x: Tensor, size: Triple) -> Tensor:
        if self._per_frame:
            raw: Tensor = self.block(_resize(x, size))
            return raw
        return _resize(self.block(x), size)


class HierarchicalDecoder3d(nn.Module):
    """Decoder D1: a separate branch and map for each level, as in HD2S."""

    def __init__(self, levels: Sequence[_Level3d], maps: int) -> None:
        super().__init__()
        del maps
        self.branches = nn.ModuleList(
            nn.Sequential(
                _lateral(level),
                inverted_residual(level.width, level.width, EXPANSION, level.times),
                inverted_residual(level.width, 1, EXPANSION, level.times, collapse=True),
            )
            for level in levels
        )

    def forward(self, features: Sequence[Tensor], size: Triple) -> dict[str, Tensor]:
        """Return the raw maps (N, 1, 1, H, W) `x0` to `x3`; `size` is (steps, H, W)."""
        return {
            name: _resize(branch(x), (1, *size[1:]))
            for name, branch, x in zip(LEVELS, self.branches, features, strict=True)
        }


class TopDownDecoder3d(nn.Module):
    """Decoder D2: from the coarsest level to the finest, with each finer level added, as in U-Net."""

    def __init__(self, levels: Sequence[_Level3d], maps: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(map(_lateral, levels))
        self.descents = nn.ModuleList(map(_descent, levels[1:], levels[:-1]))
        self.head = _Head(levels[0], maps)

    def forward(self, features: Sequence[Tensor], size: Triple) -> dict[str, Tensor]:
        """Return the raw map `d2` (N, 1, steps, H, W); `size` is (steps, H, W)."""
        *skips, x = [lateral(f) for lateral, f in zip(self.laterals, features, strict=True)]
        for skip, descent in zip(skips[::-1], list(self.descents)[::-1], strict=True):
            x = skip + _resize(descent(x), skip.shape[2:])
        return {"d2": self.head(x, size)}


class _AggregationNode3d(nn.Module):
    """Node that joins two neighbouring levels at the resolution of the finer one."""

    def __init__(self, fine: _Level3d, coarse: _Level3d) -> None:
        super().__init__()
        self.descent = _descent(coarse, fine)
        self.block = inverted_residual(fine.width, fine.width, EXPANSION, fine.times)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        out: Tensor = self.block(fine + _resize(self.descent(coarse), fine.shape[2:]))
        return out


class AggregationDecoder3d(nn.Module):
    """Decoder D3: neighbouring levels are joined, then the results, until one is left, as in DLA."""

    def __init__(self, levels: Sequence[_Level3d], maps: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(map(_lateral, levels))
        joined = [pair for left in range(len(levels), 1, -1) for pair in pairwise(levels[:left])]
        self.nodes = nn.ModuleList(_AggregationNode3d(*pair) for pair in joined)
        self.head = _Head(levels[0], maps)

    def forward(self, features: Sequence[Tensor], size: Triple) -> dict[str, Tensor]:
        """Return the raw map `d3` (N, 1, steps, H, W); `size` is (steps, H, W)."""
        row = [lateral(f) for lateral, f in zip(self.laterals, features, strict=True)]
        nodes = iter(self.nodes)
        while len(row) > 1:
            row = [next(nodes)(*pair) for pair in pairwise(row)]
        return {"d3": self.head(row[0], size)}


DECODERS = {"D1": HierarchicalDecoder3d, "D2": TopDownDecoder3d, "D3": AggregationDecoder3d}


class TinyHD(nn.Module):
    """Clip (N, 3, 16, H, W), RGB in -1 to 1, to saliency maps: one per clip (S) or 16 (M).

    Args:
        variant: S or M.
        rc: Channel reduction, the divisor of the encoder's widths.
        decoders: Which of the decoders D1, D2 and D3 to build.

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
        levels = list(map(_Level3d, self.encoder.channels, _DECODER_WIDTHS[rc], self.encoder.times))
        self.decoders = nn.ModuleDict({name: DECODERS[name](levels, self.maps) for name in sorted(decoders)})
        singles = sum(len(LEVELS) if name == "D1" else 1 for name in decoders)
        self.fusion = nn.Conv3d(singles, 1, 1)

    def forward(self, clip: Tensor) -> SaliencyMaps:
        """Return the fused maps (N, steps, H, W) and the single maps."""
        check_clip(clip)
        features = self.encoder(clip)
        parts: dict[str, Tensor] = {}
        for decoder in self.decoders.values():
            raws = decoder(features, (self.maps, *clip.shape[3:]))
            parts |= {name: raw.sigmoid() for name, raw in raws.items()}
        expanded = [part.expand(-1, -1, self.maps, -1, -1) for part in parts.values()]
        fused = self.fusion(torch.cat(expanded, dim=1)).sigmoid()
        return SaliencyMaps(fused[:, 0], {name: part[:, 0] for name, part in parts.items()})
