"""The three decoders of TinyHD (Hu et al., WACV 2023, arXiv 2301.04619), with the widths, the order of
operations and the time steps of the authors' published weights.

All are made of adapters, inverted residuals that never add their input. Each decoder registers its adapters
in the order in which the published weights number them (`trainer.models.published`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from trainer.models.mobilenet3d import (
    FLAT_TIME,
    HALVE_TIME,
    KEEP_TIME,
    Reduction,
    TemporalKernel,
    double_sides,
    double_time,
    inverted_residual,
    pixel_shuffle_frames,
)

LEVELS = ("x0", "x1", "x2", "x3")
"""Names of the encoder's levels, finest first, and of the maps made from a single level."""
EXPANSION = 2


class Adapter(nn.Sequential):
    """Inverted residual without skip, the block that all decoders are made of."""

    def __init__(self, inputs: int, outputs: int, time: TemporalKernel) -> None:
        super().__init__(*inverted_residual(inputs, outputs, EXPANSION, time))


class _SideDoubling(nn.Module):
    """Upsampling to twice the sides, and to twice the time steps if `doubles_time`.

    Args:
        shuffles: Whether by PixelShuffle, which divides the channels by four, or by interpolation.
        doubles_time: Whether the time steps are doubled too, by interpolation.
    """

    def __init__(self, shuffles: bool = True, doubles_time: bool = False) -> None:
        super().__init__()
        self._shuffles, self._doubles_time = shuffles, doubles_time

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C / 4 or C, T or 2T, 2H, 2W)."""
        x = pixel_shuffle_frames(x) if self._shuffles else double_sides(x)
        return double_time(x) if self._doubles_time else x


class HierarchicalDecoder3d(nn.Module):
    """Decoder D1: a separate chain of adapters and a map for each level, as in HD2S.

    Every map has one time step.

    Args:
        channels: Channels of the levels x0 to x3.
        rc: Channel reduction of the encoder.
        maps: Maps per clip of the student: 1 (S) or 16 (M).
    """

    def __init__(self, channels: Sequence[int], rc: Reduction, maps: int) -> None:
        super().__init__()
        same = FLAT_TIME if maps == 1 else KEEP_TIME
        shuffles = rc != 4  # x3 has 130 channels at rc 4, which PixelShuffle does not divide
        x0, x1, x2, x3 = channels
        coarsest = x3 // 4 if shuffles else x3
        self.chains = nn.ModuleList(
            [
                nn.Sequential(
                    Adapter(x0, 24, HALVE_TIME),
                    Adapter(24, 48, same),
                    _SideDoubling(),
                    Adapter(12, 24, HALVE_TIME),
                    Adapter(24, 1, HALVE_TIME),
                ),
                nn.Sequential(
                    Adapter(x1, 56, HALVE_TIME),
                    _SideDoubling(),
                    Adapter(14, 56, same),
                    _SideDoubling(),
                    Adapter(14, 28, HALVE_TIME),
                    Adapter(28, 1, same),
                ),
                nn.Sequential(
                    Adapter(x2, 56, HALVE_TIME),
                    _SideDoubling(),
                    Adapter(14, 56, same),
                    _SideDoubling(),
                    Adapter(14, 56, same),
                    _SideDoubling(),
                    Adapter(14, 1, same),
                ),
                nn.Sequential(
                    _SideDoubling(shuffles),
                    Adapter(coarsest, 136, HALVE_TIME if maps == 1 else KEEP_TIME),
                    _SideDoubling(),
                    Adapter(34, 136, same),
                    _SideDoubling(),
                    Adapter(34, 136, same),
                    _SideDoubling(),
                    Adapter(34, 1, same),
                ),
            ]
        )

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw maps (N, 1, 1, H, W) `x0` to `x3`."""
        return {name: chain(x) for name, chain, x in zip(LEVELS, self.chains, features, strict=True)}


class TopDownDecoder3d(nn.Module):
    """Decoder D2: from the coarsest level to the finest, with each finer level added, as in U-Net.

    Args:
        channels: Channels of the levels x0 to x3.
        rc: Channel reduction of the encoder.
        maps: Maps per clip: 1 (S), which shrinks time to one step, or 16 (M), which doubles it
            with the sides.
    """

    def __init__(self, channels: Sequence[int], rc: Reduction, maps: int) -> None:
        super().__init__()
        single = maps == 1
        same, halve = (FLAT_TIME, HALVE_TIME) if single else (KEEP_TIME, KEEP_TIME)
        x0, x1, x2, x3 = channels
        self.from_x3 = Adapter(x3, 4 * x2, same)
        self.from_x2 = Adapter(x2, 4 * x1, same)
        self.side_x1 = Adapter(x1, x1, halve)
        self.from_x1 = Adapter(x1, 4 * x0, same)
        self.side_x0 = nn.Sequential(Adapter(x0, x0, halve), Adapter(x0, x0, halve))
        self.from_x0 = Adapter(x0, x0, halve)
        self.head = Adapter(x0 // 4 if rc == 1 else x0, 1, halve)
        self.upsample = _SideDoubling(doubles_time=not single)
        self.upsample_last = _SideDoubling(shuffles=rc == 1, doubles_time=not single)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw map `d2` (N, 1, maps, H, W)."""
        x0, x1, x2, x3 = features
        x = self.upsample(self.from_x3(x3)) + x2
        x = self.upsample(self.from_x2(x)) + self.side_x1(x1)
        x = self.upsample(self.from_x1(x)) + self.side_x0(x0)
        return {"d2": self.head(self.upsample_last(self.from_x0(x)))}


class AggregationDecoder3d(nn.Module):
    """Decoder D3: neighbouring levels are joined, then the results, until one is left, as in DLA.

    Every level is first upsampled to the size of the next finer one.

    Args:
        channels: Channels of the levels x0 to x3.
        rc: Channel reduction of the encoder.
        maps: Maps per clip: 1 (S), which shrinks time to one step, or 16 (M), which doubles it
            with the sides.
    """

    def __init__(self, channels: Sequence[int], rc: Reduction, maps: int) -> None:
        super().__init__()
        single = maps == 1
        same, halve = (FLAT_TIME, HALVE_TIME) if single else (KEEP_TIME, KEEP_TIME)
        x0, x1, x2, _ = channels
        p0, p1, p2, p3 = (width // 4 if rc == 1 else width for width in channels)
        self.upsample_level = _SideDoubling(shuffles=rc == 1, doubles_time=not single)
        self.upsample = _SideDoubling(doubles_time=not single)
        self.finer_levels = nn.ModuleList(
            [Adapter(x0, p1, halve), Adapter(x1, p2, halve), Adapter(x2, p3, same)]
        )
        # Descents bring a coarser result to the finer one that it is added to; the first row has its own.
        self.descents = nn.ModuleList([Adapter(p1, 8, same), Adapter(p2, 32, same), Adapter(p3, 128, halve)])
        self.row1 = nn.ModuleList([Adapter(p0, 2, halve), Adapter(p1, 8, halve), Adapter(p2, 32, halve)])
        self.row2 = nn.ModuleList([Adapter(2, 2, halve), Adapter(8, 8, halve)])
        self.row3 = Adapter(2, 2, halve)
        self.head = Adapter(2, 1, same)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw map `d3` (N, 1, maps, H, W)."""
        levels = [self.upsample_level(x) for x in features]
        for index, adapter in enumerate(self.finer_levels):
            levels[index + 1] = levels[index + 1] + adapter(features[index])
        coarser = [descent(x) for descent, x in zip(self.descents, levels[1:], strict=True)]
        row = [
            self.upsample(coarse) + adapter(fine)
            for coarse, adapter, fine in zip(coarser, self.row1, levels[:3], strict=True)
        ]
        row = [
            self.upsample(coarse) + adapter(fine)
            for coarse, adapter, fine in zip(row[1:], self.row2, row[:2], strict=True)
        ]
        return {"d3": self.head(self.upsample(row[1]) + self.row3(row[0]))}
