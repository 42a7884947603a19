"""Teacher of TinyHD: a video saliency network with an S3D encoder and four conspicuity decoders.

Encoder: Xie, Sun, Huang, Tu, Murphy, "Rethinking Spatiotemporal Feature Learning", ECCV 2018 (S3D). Four maps
by independent decoders: Bellitto et al., "Hierarchical Domain-Adapted Feature Learning for Video Saliency
Prediction", IJCV 129 (2021) (HD2S). The widths of the decoders are our choice: they match the published size
and work of TinyHD's teacher (docs/explanation/networks.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.mobilenet3d import CLIP_FRAMES, Triple, check_clip
from trainer.models.tinyhd import LEVELS, SaliencyMaps

_INCEPTION_WIDTHS = (  # input channels; branches: 1x1; 1x1 then 3x3x3; 1x1 then 3x3x3; pooling then 1x1
    (192, 64, (96, 128), (16, 32), 32),
    (256, 128, (128, 192), (32, 96), 64),
    (480, 192, (96, 208), (16, 48), 64),
    (512, 160, (112, 224), (24, 64), 64),
    (512, 128, (128, 256), (24, 64), 64),
    (512, 112, (144, 288), (32, 64), 64),
    (528, 256, (160, 320), (32, 128), 128),
    (832, 256, (160, 320), (32, 128), 128),
    (832, 384, (192, 384), (48, 128), 128),
)
_TAPS = ((192, CLIP_FRAMES // 2), (480, CLIP_FRAMES // 2), (832, CLIP_FRAMES // 4), (1024, CLIP_FRAMES // 8))
"""Channels and time steps of the four returned features, at strides 4, 8, 16 and 32."""
_DECODER_WIDTHS = (96, 192, 512, 1536)
"""Channels of the decoders after the time steps are collapsed, shallow to deep."""


def _conv_norm(
    inputs: int,
    outputs: int,
    kernel: Triple = (1, 1, 1),
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm3d(outputs, eps=1e-3),
        nn.ReLU(),
    )


def _separable_conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution over space followed by one over time."""
    pad = side // 2
    return nn.Sequential(
        _conv_norm(inputs, outputs, (1, side, side), (1, stride, stride), (0, pad, pad)),
        _conv_norm(outputs, outputs, (side, 1, 1), (stride, 1, 1), (pad, 0, 0)),
    )


class _InceptionBlock(nn.Module):
    """Inception block of four branches whose 3x3 convolutions are separable in space and time."""

    def __init__(
        self, inputs: int, pointwise: int, left: tuple[int, int], right: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv_norm(inputs, pointwise),
                nn.Sequential(_conv_norm(inputs, left[0]), _separable_conv(*left, 3)),
                nn.Sequential(_conv_norm(inputs, right[0]), _separable_conv(*right, 3)),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), _conv_norm(inputs, pooled)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, sum of the branches, T, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _spatial_pool() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))


class S3D(nn.Module):
    """Encoder of clips (N, 3, 16, H, W) with 7.9 M parameters.

    The features are (N, 192, 8, H/4, W/4), (N, 480, 8, H/8, W/8), (N, 832, 4, H/16, W/16) and
    (N, 1024, 2, H/32, W/32).
    """

    def __init__(self) -> None:
        super().__init__()
        mixed = [_InceptionBlock(*settings) for settings in _INCEPTION_WIDTHS]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    _separable_conv(3, 64, 7, stride=2),
                    _spatial_pool(),
                    _conv_norm(64, 64),
                    _separable_conv(64, 192, 3),
                ),
                nn.Sequential(_spatial_pool(), *mixed[:2]),
                nn.Sequential(nn.MaxPool3d(3, 2, 1), *mixed[2:7]),
                nn.Sequential(nn.MaxPool3d(2, 2), *mixed[7:]),
            ]
        )

    def forward(self, clip: Tensor) -> list[Tensor]:
        """Return the four features, finest first."""
        features, x = [], clip
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _ConspicuityDecoder(nn.Sequential):
    """Decoder from features (N, C, T, h, w) to a raw map (N, 1, 1, H/4, W/4).

    One convolution collapses all time steps. Then the width halves wherever the side doubles.
    """

    def __init__(self, inputs: int, times: int, width: int, doublings: int) -> None:
        layers: list[nn.Module] = [_conv_norm(inputs, width, (times, 1, 1))]
        for _ in range(doublings):
            layers += [
                _spatial_conv(width, width // 2),
                nn.Upsample(scale_factor=(1, 2, 2), mode="trilinear"),
            ]
            width //= 2
        super().__init__(*layers, _spatial_conv(width, width // 2), nn.Conv3d(width // 2, 1, 1))


def _spatial_conv(inputs: int, outputs: int) -> nn.Sequential:
    return _conv_norm(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))


class HD2S(nn.Module):
    """Clip (N, 3, 16, H, W), RGB in -1 to 1, to one saliency map and four conspicuity maps.

    It has 29.6 M parameters. The map belongs to the last frame of the clip. To get a map for each frame of a
    student's clip, run it on windows that end at each of these frames.

    Raises:
        InputError: On call, the shape of the clip does not fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = S3D()
        self.decoders = nn.ModuleList(
            _ConspicuityDecoder(channels, times, width, doublings)
            for doublings, ((channels, times), width) in enumerate(zip(_TAPS, _DECODER_WIDTHS, strict=True))
        )
        self.fusion = nn.Conv3d(len(LEVELS), 1, 1)

    def forward(self, clip: Tensor) -> SaliencyMaps:
        """Return the maps (N, 1, H, W); the single maps have the names of those of student decoder D1."""
        check_clip(clip)
        parts = [
            F.interpolate(decoder(x), size=(1, *clip.shape[3:]), mode="trilinear").sigmoid()
            for decoder, x in zip(self.decoders, self.encoder(clip), strict=True)
        ]
        fused = self.fusion(torch.cat(parts, dim=1)).sigmoid()
        return SaliencyMaps(fused[:, 0], {name: part[:, 0] for name, part in zip(LEVELS, parts, strict=True)})
