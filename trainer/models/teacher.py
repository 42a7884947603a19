"""Teachers of SKD students: larger networks on larger frames, with an ImageNet encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.efficientnet_lite import TAPS, EfficientNetLite0

DECODER_WIDTH = 48
"""Channels of the decoder."""


class _PyramidDecoder(nn.Module):
    """Decoder from features at strides 2 to 32 to a raw map at stride 2, top-down with skip connections."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, DECODER_WIDTH, 1) for c in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(DECODER_WIDTH, DECODER_WIDTH, 3, padding=1, groups=DECODER_WIDTH, bias=False),
                nn.Conv2d(DECODER_WIDTH, DECODER_WIDTH, 1, bias=False),
                nn.BatchNorm2d(DECODER_WIDTH),
                nn.ReLU(),
            )
            for _ in channels
        )
        self.head = nn.Conv2d(DECODER_WIDTH, 1, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (N, 1, H/2, W/2)."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        x = self.smooth[-1](levels[-1])
        for level, smooth in zip(levels[-2::-1], list(self.smooth)[-2::-1], strict=True):
            x = smooth(level + F.interpolate(x, size=level.shape[-2:], mode="bilinear"))
        raw: Tensor = self.head(x)
        return raw


class SpatialTeacher(nn.Module):
    """Teacher that maps a frame (N, 3, H, W), scaled x/127.5 - 1, to a raw map (N, 1, H/2, W/2).

    It has 3.0 M parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0()
        self.decoder = _PyramidDecoder(list(TAPS.values()))

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the raw map of `frame`; `other` is ignored."""
        del other
        raw: Tensor = self.decoder(self.encoder(frame))
        return raw


class TemporalTeacher(nn.Module):
    """Teacher that maps two frames to a raw map (N, 1, H/2, W/2).

    It uses the features of the first frame and their difference from the second, at every level.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0()
        self.decoder = _PyramidDecoder([2 * c for c in TAPS.values()])

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the raw map of `frame`, given its neighbour in time."""
        levels = self.encoder(torch.cat([frame, other]))
        features = []
        for level in levels:
            current, neighbour = level.chunk(2)
            features.append(torch.cat([current, current - neighbour], dim=1))
        raw: Tensor = self.decoder(features)
        return raw
