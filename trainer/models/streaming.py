"""Streaming student: TinyHD's heterogeneous decoders and hierarchical maps (Hu et al., WACV 2023, arXiv
2301.04619, section 3) on a causal network that takes one frame at a time.

The encoder is the first part of EfficientNet-Lite0 (arXiv 1905.11946) with its ImageNet weights. Only
`TemporalMemory` looks back: a convolution over time and space, computed as a 2-D convolution over cached
frames. The clip form and the step form share all weights and all other code, so they compute the same maps.
The widths and the choice of earlier frames are ours (docs/explanation/networks.md, docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.models.efficientnet_lite import STAGES, EfficientNetLite0
from trainer.models.mobilenet3d import group_means
from trainer.models.skd import DIFFERENCE_CHANNELS, frame_differences
from trainer.models.tinyhd import LEVELS, SaliencyMaps

Reduction = Literal[1, 2, 4]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
SIZES = ((192, 256), (96, 128))
"""Heights and widths of the frames that students exist for."""
STRIDES = (4, 8, 16, 32)
"""Strides of the levels x0 to x3."""
DILATIONS = (2, 4, 4)
"""Distance, in frames at `NOMINAL_FPS`, of the frames that x0, x1 and x2 use; x3 uses one frame only."""
TAPS = 3
"""Frames that a level uses: the current one, and those one and two dilations before."""
WINDOW = (TAPS - 1) * max(DILATIONS) + 1
"""Consecutive frames at `NOMINAL_FPS` that a map depends on; it belongs to the last."""
EXPANSION = 2
_ENCODER_STAGES = (*STAGES[:5], (*STAGES[5][:4], 1))
"""First stages of EfficientNet-Lite0, up to the first of the four blocks with 192 channels."""
_TAPPED_STAGES = (1, 2, 4, 5)
"""Index of the last stage at each of `STRIDES`."""
_DECODER_WIDTHS: dict[Reduction, tuple[int, int, int, int]] = {
    1: (24, 48, 64, 96),
    2: (24, 48, 64, 96),
    4: (16, 32, 48, 64),
}
"""Channels of the decoders at levels x0 to x3."""
_CACHED_CHANNELS: dict[Reduction, tuple[int, int, int]] = {1: (16, 16, 32), 2: (16, 16, 32), 4: (8, 16, 16)}
"""Channels of a cached frame at levels x0 to x2."""

RecallTaps = Callable[["TemporalMemory", Tensor], Tensor]
"""Function from a memory and its cached features (N, channels, h, w) of the current frame to the features of
all frames that it uses (N, 3 channels, h, w), oldest first."""


def _conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    )
    return layers.append(nn.ReLU6()) if act else layers


class _InvertedResidual2d(nn.Module):
    """Expansion, depthwise convolution and projection, with an optional skip connection."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int = 3, stride: int = 1, skip: bool = False
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        project = _conv_norm(inner, outputs, act=False)
        self.layers = nn.Sequential(
            *([_conv_norm(inputs, inner)] if expansion > 1 else []),
            _conv_norm(inner, inner, kernel, stride, groups=inner),
            project,
        )
        self.skip = skip
        if skip:  # residuals start small, because a deep random network amplifies rounding to noise
            nn.init.constant_(project.get_parameter("1.weight"), 0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


class Encoder(nn.Module):
    """Frame (N, 3, H, W), scaled x/127.5 - 1, to features at strides 4, 8, 16 and 32.

    Padding is symmetric, so that engines need no extra layer for it. Except at the borders, the result is
    that of the published network on a frame that is shifted by some pixels, so its weights fit.
    """

    def __init__(self, rc: Reduction) -> None:
        super().__init__()
        channels = 32 // rc
        self.stem = _conv_norm(3, channels, 3, 2)
        self.stages = nn.ModuleList()
        self.channels: list[int] = []
        for index, (expansion, kernel, stride, width, blocks) in enumerate(_ENCODER_STAGES):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(
                    _InvertedResidual2d(
                        channels, width // rc, expansion, kernel, 1 if block else stride, skip=block > 0
                    )
                )
                channels = width // rc
            self.stages.append(stage)
            if index in _TAPPED_STAGES:
                self.channels.append(channels)

    def forward(self, frame: Tensor) -> list[Tensor]:
        """Return the features of x0 to x3."""
        x, features = self.stem(frame), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _TAPPED_STAGES:
                features.append(x)
        return features

    def load_imagenet(self) -> None:
        """Start from the published weights; at rc > 1 each weight is the mean of a group of them.

        Raises:
            InputError: The package of weights is missing or does not fit.
        """
        published = EfficientNetLite0()
        published.load_imagenet()
        # This encoder has the first tensors of the published network, in the same order.
        values = published.state_dict().values()
        for tensor, value in zip(self.state_dict().values(), values, strict=False):
            tensor.copy_(group_means(value, tensor.shape) if value.dim() else value)


class TemporalMemory(nn.Module):
    """Convolution in time and space over a few cached channels, through which a level sees the past.

    The kernel covers 3 x 3 pixels of 3 frames, `dilation` apart and ending with the current one. It is
    computed as one 2-D convolution over the concatenated channels of these frames. If aligned, it also covers
    the difference of the current frame and an earlier one.

    Args:
        inputs: Channels of the level.
        outputs: Channels of the result.
        channels: Channels of a cached frame.
        dilation: Distance of the frames.
        aligned: Whether the frame difference is an input.

    Attributes:
        channels: Channels of a cached frame.
        ages: How many frames before the current one the cached frames are, oldest first.
    """

    def __init__(
        self, inputs: int, outputs: int, channels: int, dilation: int, aligned: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.ages = [tap * dilation for tap in range(TAPS - 1, 0, -1)]
        self.cached = _conv_norm(inputs, channels)
        self.motion = _conv_norm(TAPS * channels + DIFFERENCE_CHANNELS * aligned, outputs, 3, act=False)

    def forward(self, features: Tensor, recall: RecallTaps, difference: Tensor | None) -> Tensor:
        """Return (N, outputs, h, w) from the level's features (N, inputs, h, w).

        Args:
            features: Features of the level.
            recall: Returns the cached features of all frames that the level uses.
            difference: Frame difference (N, 6, h, w) at the level's stride; None without alignment.
        """
        taps = recall(self, self.cached(features))
        out: Tensor = self.motion(taps if difference is None else torch.cat([taps, difference], dim=1))
        return out


class _Level2d(nn.Module):
    """Projection of a level of the encoder to the width of the decoders, plus its memory."""

    def __init__(self, inputs: int, outputs: int, memory: TemporalMemory | None) -> None:
        super().__init__()
        self.lateral = _conv_norm(inputs, outputs, act=False)
        self.memory = memory
        self.act = nn.ReLU6()

    def forward(self, features: Tensor, recall: RecallTaps, difference: Tensor | None) -> Tensor:
        out: Tensor = self.lateral(features)
        if self.memory is not None:
            out = out + self.memory(features, recall, difference)
        return self.act(out)  # type: ignore[no-any-return]


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear")


def _density(raw: Tensor, frames: Tensor) -> Tensor:
    """Return the density (N, 1, H, W), scaled to a peak of 1, of a raw map that is a log-density.

    TinyHD's maps are sigmoids, which learn far slower when a target has few of thousands of pixels.
    """
    full_size = _resize_like(raw, frames)
    return (full_size - full_size.amax(dim=(2, 3), keepdim=True)).exp()


class HierarchicalDecoder2d(nn.Module):
    """Decoder D1: a separate branch and map for each level."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                _InvertedResidual2d(width, width, EXPANSION, skip=True),
                _InvertedResidual2d(width, 1, EXPANSION),
            )
            for width in widths
        )

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw maps (N, 1, h, w) `x0` to `x3`, at the size of the finest level."""
        raws = [branch(x) for branch, x in zip(self.branches, levels, strict=True)]
        return {name: _resize_like(raw, levels[0]) for name, raw in zip(LEVELS, raws, strict=True)}


class TopDownDecoder2d(nn.Module):
    """Decoder D2: from the coarsest level to the finest, with each finer level added, as in U-Net."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.descents = nn.ModuleList(
            _InvertedResidual2d(coarse, fine, EXPANSION) for fine, coarse in pairwise(widths)
        )
        self.head = _InvertedResidual2d(widths[0], 1, EXPANSION)

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw map `d2` (N, 1, h, w)."""
        *skips, x = levels
        for skip, descent in zip(skips[::-1], list(self.descents)[::-1], strict=True):
            x = skip + _resize_like(descent(x), skip)
        return {"d2": self.head(x)}


class _AggregationNode2d(nn.Module):
    """Node that joins two neighbouring levels at the resolution of the finer one."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.descent = _conv_norm(coarse, fine, act=False)
        self.block = _InvertedResidual2d(fine, fine, EXPANSION, skip=True)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        out: Tensor = self.block(fine + _resize_like(self.descent(coarse), fine))
        return out


class AggregationDecoder2d(nn.Module):
    """Decoder D3: neighbouring levels are joined, then the results, until one is left, as in DLA."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        joined = [pair for left in range(len(widths), 1, -1) for pair in pairwise(widths[:left])]
        self.nodes = nn.ModuleList(_AggregationNode2d(*pair) for pair in joined)
        self.head = _InvertedResidual2d(widths[0], 1, EXPANSION)

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw map `d3` (N, 1, h, w)."""
        row, nodes = list(levels), iter(self.nodes)
        while len(row) > 1:
            row = [next(nodes)(*pair) for pair in pairwise(row)]
        return {"d3": self.head(row[0])}


class StreamingNetwork(nn.Module):
    """Causal network from frames, scaled x/127.5 - 1, to saliency maps; sides are multiples of 32.

    `forward` takes whole clips, for training. `step` takes a frame and the cached features of earlier frames.
    Frames before the start of a clip repeat its first frame.

    Args:
        rc: Channel reduction, the divisor of the encoder's widths.
        aligned: Whether each frame comes with an earlier one that is aligned with it. The difference of both
            joins the memories.

    Attributes:
        aligned: As the argument.
        channels: Channels of a clip.

    Raises:
        InputError: An unknown channel reduction; on call, a clip whose shape does not fit.
    """

    def __init__(self, rc: Reduction = 1, aligned: bool = False) -> None:
        super().__init__()
        if rc not in REDUCTIONS:
            raise InputError(f"no streaming student at rc {rc}; expected {', '.join(map(str, REDUCTIONS))}")
        self.aligned, self.channels = aligned, 6 if aligned else 3
        self.encoder = Encoder(rc)
        widths = _DECODER_WIDTHS[rc]
        self.levels = nn.ModuleList(
            _Level2d(
                inputs,
                width,
                TemporalMemory(inputs, width, _CACHED_CHANNELS[rc][index], DILATIONS[index], aligned)
                if index < len(DILATIONS)
                else None,
            )
            for index, (inputs, width) in enumerate(zip(self.encoder.channels, widths, strict=True))
        )
        self.decoders = nn.ModuleList(
            [HierarchicalDecoder2d(widths), TopDownDecoder2d(widths), AggregationDecoder2d(widths)]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # fan_in, because a depthwise filter has only nine inputs
                nn.init.kaiming_normal_(module.weight, mode="fan_in")
        self.fusion = nn.Conv2d(len(LEVELS) + 2, 1, 1)
        nn.init.constant_(self.fusion.weight, 1 / (len(LEVELS) + 2))

    @property
    def memories(self) -> list[TemporalMemory]:
        """Return the memories, finest first, in the order of the `pasts` of `step`."""
        return [module for module in self.levels.modules() if isinstance(module, TemporalMemory)]

    def forward(self, clip: Tensor) -> SaliencyMaps:
        """Return the maps of a clip, T steps each: `fused`, and `x0` to `x3`, `d2`, `d3`.

        Args:
            clip: Frames (N, 3, T, H, W); if aligned, (N, 6, T, H, W): each with its earlier frame.
        """
        shape = tuple(clip.shape)
        fits = len(shape) == 5 and shape[1] == self.channels
        if not fits or any(side % STRIDES[-1] or not side for side in shape[3:]):
            raise InputError(
                f"the clip has shape {shape}; expected (N, {self.channels}, T, H, W) with sides that are "
                f"multiples of {STRIDES[-1]}: resize its frames, for example to 192 x 256"
            )
        count, steps = shape[0], shape[2]

        def by_clip(x: Tensor) -> Tensor:
            return x.reshape(count, steps, *x.shape[1:])

        def recall(memory: TemporalMemory, cached: Tensor) -> Tensor:
            frames, indices = by_clip(cached), torch.arange(steps, device=cached.device)
            taps = [frames[:, (indices - age).clamp(min=0)] for age in (*memory.ages, 0)]
            return torch.cat(taps, dim=2).flatten(0, 1)

        frames, *others = torch.split(clip.transpose(1, 2).flatten(0, 1), 3, dim=1)
        fused, parts = self._raw_maps(frames, others, recall)
        densities = {name: by_clip(_density(part, frames)[:, 0]) for name, part in parts.items()}
        return SaliencyMaps(by_clip(_density(fused, frames)[:, 0]), densities)

    def step(self, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the fused map (N, 1, H, W) of a frame, and the features that each memory caches of it.

        Args:
            frame: Current frame (N, 3, H, W).
            inputs: If aligned, the earlier frame (N, 3, H, W). Then, for each memory, its cached features
                (N, channels, h, w) at each of its ages.
        """
        others, pasts = inputs[: self.aligned], inputs[self.aligned :]
        past, cached_features = iter(pasts), []

        def recall(memory: TemporalMemory, cached: Tensor) -> Tensor:
            cached_features.append(cached)
            return torch.cat([*(next(past) for _ in memory.ages), cached], dim=1)

        fused, _ = self._raw_maps(frame, others, recall)
        return _density(fused, frame), *cached_features

    def _raw_maps(
        self, frames: Tensor, others: Sequence[Tensor], recall: RecallTaps
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the fused raw maps (N, 1, h, w) and the single raw maps, all at stride 4."""
        features = self.encoder(frames)
        differences = frame_differences(frames, others[0], len(DILATIONS)) if others else []
        levels = [
            level(x, recall, difference)
            for level, x, difference in zip_longest(self.levels, features, differences)
        ]
        parts: dict[str, Tensor] = {}
        for decoder in self.decoders:
            parts |= decoder(levels)
        return self.fusion(torch.cat(list(parts.values()), dim=1)), parts
