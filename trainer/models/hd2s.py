"""TinyHD's teacher: a video saliency network with an S3D encoder and four conspicuity decoders.

Encoder: Xie, Sun, Huang, Tu, Murphy, "Rethinking Spatiotemporal Feature Learning", ECCV 2018 (S3D).
Four maps by independent decoders: Bellitto et al., "Hierarchical Domain-Adapted Feature Learning for
Video Saliency Prediction", IJCV 129 (2021) (HD2S). The decoders' widths are ours: they meet the size
and the work that TinyHD's teacher has (docs/networks.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.mobilenet3d import CLIP_FRAMES, Triple, check_clip
from trainer.models.tinyhd import LEVELS, SaliencyMaps

_INCEPTION_WIDTHS = (  # input channels; 1x1; 1x1 then 3x3x3; the same again; pooled then 1x1
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
"""Channels and time steps of the four tapped features, at strides 4, 8, 16 and 32."""
_DECODER_WIDTHS = (96, 192, 512, 1536)
"""Channels of the decoders once time is gone, shallow to deep."""


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
    """A convolution over space, then one over time."""
    pad = side // 2
    return nn.Sequential(
        _conv_norm(inputs, outputs, (1, side, side), (1, stride, stride), (0, pad, pad)),
        _conv_norm(outputs, outputs, (side, 1, 1), (stride, 1, 1), (pad, 0, 0)),
    )


class _InceptionBlock(nn.Module):
    """Inception's block of four branches, its 3x3 convolutions separable in space and time."""

    def __init__(
        self, inputs: int, one: int, three: tuple[int, int], other: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _conv_norm(inputs, one),
                nn.Sequential(_conv_norm(inputs, three[0]), _separable_conv(*three, 3)),
                nn.Sequential(_conv_norm(inputs, other[0]), _separable_conv(*other, 3)),
                nn.Sequential(nn.MaxPool3d(3, 1, 1), _conv_norm(inputs, pooled)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, sum of the branches, T, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def _spatial_pool() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))


class S3D(nn.Module):
    """Clip (N, 3, 16, H, W) to features (N, 192, 8, H/4, W/4), (N, 480, 8, H/8, W/8), (N, 832, 4, H/16,
    W/16) and (N, 1024, 2, H/32, W/32); 7.9 M parameters."""

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
    """Features (N, C, T, h, w) to a raw map (N, 1, 1, H/4, W/4).

    One convolution takes all time steps to one; then the width halves wherever the side doubles.
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

    It has 29.6 M parameters. The map is that of the clip's last frame. Slide the clip by a frame for a
    map a frame: for student M's clip the windows end at each of its own frames.

    Raises:
        InputError: on call, a clip whose shape does not fit.
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
        """Return the maps (N, 1, H, W), the single ones by the names of student decoder D1's."""
        check_clip(clip)
        parts = [
            F.interpolate(decoder(x), size=(1, *clip.shape[3:]), mode="trilinear").sigmoid()
            for decoder, x in zip(self.decoders, self.encoder(clip), strict=True)
        ]
        fused = self.fusion(torch.cat(parts, dim=1)).sigmoid()
        return SaliencyMaps(fused[:, 0], {name: part[:, 0] for name, part in zip(LEVELS, parts, strict=True)})
