"""MobileNetV2 inflated to three dimensions: TinyHD's encoder (Hu et al., "TinyHD", WACV 2023, arXiv
2301.04619, section 3.1), after Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381).

Layers come in the order of torchvision's `mobilenet_v2`, so that its ImageNet weights can be taken.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.core.errors import InputError

Reduction = Literal[1, 2, 4, 8]
REDUCTIONS: tuple[Reduction, ...] = (1, 2, 4, 8)
CLIP_FRAMES = 16
"""Frames of a clip."""
SIDE_MULTIPLE = 32
"""The sides of a clip are multiples of this."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in 0 to 1: what torchvision's weights expect."""

Triple = tuple[int, int, int]


def check_clip(clip: Tensor) -> None:
    """Raise InputError unless the clip is (N, 3, 16, H, W) with sides that are multiples of 32."""
    shape = tuple(clip.shape)
    if shape[1:3] != (3, CLIP_FRAMES) or len(shape) != 5 or any(side % SIDE_MULTIPLE for side in shape[3:]):
        raise InputError(
            f"a clip of shape {shape}; expected (N, 3, {CLIP_FRAMES}, H, W) with sides that are multiples of "
            f"{SIDE_MULTIPLE}: take {CLIP_FRAMES} frames and resize them, as to 192 x 256"
        )


def reduced_width(channels: int, rc: int) -> int:
    """Return a width divided by `rc`, rounded up to an even number so that PixelShuffle fits."""
    return 2 * -(-channels // (2 * rc))


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: Triple = (1, 1, 1),
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    groups: int = 1,
    act: bool = True,
) -> list[nn.Module]:
    """Return a convolution with its norm and, if `act`, ReLU6."""
    layers: list[nn.Module] = [
        nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm3d(outputs),
    ]
    return [*layers, nn.ReLU6()] if act else layers


def inverted_residual(
    inputs: int,
    outputs: int,
    expansion: int,
    times: int,
    stride: Triple = (1, 1, 1),
    collapse: bool = False,
) -> nn.Sequential:
    """Return MobileNetV2's block without its skip: expand, depthwise in three dimensions, project.

    `times`: the time steps it is given, of which a depthwise kernel sees three, or the one there is;
    with `collapse` it sees all and leaves one.
    """
    inner = inputs * expansion
    seen = times if collapse else 3 if times > 1 else 1
    padding = (0 if collapse else seen // 2, 1, 1)
    layers = conv_norm(inputs, inner) if expansion > 1 else []
    layers += conv_norm(inner, inner, (seen, 3, 3), stride, padding, groups=inner)
    return nn.Sequential(*layers, *conv_norm(inner, outputs, act=False))


class ImageNetScaling(nn.Module):
    """From the house's scaling, v / 127.5 - 1, to that by ImageNet's mean and deviation: a fixed layer.

    It belongs to the network, and not to preprocessing, so that every student is given frames alike.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = torch.tensor([MEAN, DEVIATION]).view(2, 1, 3, 1, 1, 1)
        self.register_buffer("scale", 0.5 / deviation, persistent=False)
        self.register_buffer("offset", (0.5 - mean) / deviation, persistent=False)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the clip (N, 3, T, H, W), scaled."""
        scaled: Tensor = clip * self.scale + self.offset
        return scaled


class _InvertedResidual3d(nn.Module):
    """An inverted residual with its skip, where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, times: int, stride: Triple) -> None:
        super().__init__()
        self.layers = inverted_residual(inputs, outputs, expansion, times, stride)
        self.skip = stride == (1, 1, 1) and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


class MobileNet3D(nn.Module):
    """Clip (N, 3, 16, H, W), in -1 to 1, to features x0 to x3, finest first.

    The outputs of all 18 blocks are tapped, concatenated per scale and, but for the first block's,
    unfolded to twice the side by PixelShuffle(2) in each frame. At rc 1 and 192 x 256 they are
    (N, 28, 8, 96, 128), (N, 24, 4, 48, 64), (N, 136, 2, 24, 32) and (N, 520, `coarse_times`, 12, 16).

    `rc`: what every width is divided by. `coarse_times`: time steps of x3, 2 for a student of one map,
    1 for a student of 16 (whose decoders double time with the sides, up to 16).
    """

    def __init__(self, rc: Reduction = 1, coarse_times: Literal[1, 2] = 2) -> None:
        super().__init__()
        stages = (  # expansion, output channels, blocks, stride in space, time steps
            (1, 16, 1, 1, 8),
            (6, 24, 2, 2, 8),
            (6, 32, 3, 2, 4),
            (6, 64, 4, 2, 2),
            (6, 96, 3, 1, 2),
            (6, 160, 3, 2, coarse_times),
            (6, 320, 1, 1, coarse_times),
        )
        self._coarse_times = coarse_times
        channels, times = reduced_width(32, rc), CLIP_FRAMES // 2
        self.scaling = ImageNetScaling()
        self.stem = nn.Sequential(*conv_norm(3, channels, (3, 3, 3), (2, 2, 2), (1, 1, 1)))
        scale = nn.Sequential()
        self.scales = nn.ModuleList([scale])
        totals = [0]  # channels tapped at strides 2, 4, 8, 16 and 32
        for expansion, width, blocks, space, steps in stages:
            outputs = reduced_width(width, rc)
            if space == 2:
                scale = nn.Sequential()
                self.scales.append(scale)
                totals.append(0)
            for block in range(blocks):
                stride = (times // steps, space, space) if block == 0 else (1, 1, 1)
                scale.append(_InvertedResidual3d(channels, outputs, expansion, times, stride))
                totals[-1] += outputs
                channels, times = outputs, steps
        scale.append(nn.Sequential(*conv_norm(channels, reduced_width(1280, rc))))
        totals[-1] += reduced_width(1280, rc)
        two, four, eight, sixteen, deep = totals
        self.channels = (two + four // 4, eight // 4, sixteen // 4, deep // 4)
        """Channels of x0 to x3."""
        self.times = (CLIP_FRAMES // 2, CLIP_FRAMES // 4, CLIP_FRAMES // 8, coarse_times)
        """Time steps of x0 to x3."""

    def forward(self, clip: Tensor) -> list[Tensor]:
        """Return x0 (stride 2) to x3 (stride 16)."""
        x = self.stem(self.scaling(clip))
        tapped = []
        for scale in self.scales:
            outputs = []
            for block in scale.children():
                x = block(x)
                outputs.append(x)
            tapped.append(torch.cat(outputs, dim=1))
        two, *coarser = tapped
        four, *others = [_pixel_shuffle_frames(x) for x in coarser]
        return [torch.cat([two, four], dim=1), *others]

    def take(self, full: MobileNet3D) -> None:
        """Start from an encoder of full width (rc 1): each weight is the mean of those it stands for."""
        theirs = full.state_dict()
        for name, tensor in self.state_dict().items():
            tensor.copy_(group_means(theirs[name], tensor.shape))

    def load_imagenet(self, path: Path) -> None:
        """Start from a file with the state dict of torchvision's `mobilenet_v2`.

        Its tensors are ours in the same order under other names. Kernels are copied along time, not
        divided by its length: each is followed by batch norm. At rc > 1 they are then reduced as in
        `take`.

        Raises:
            InputError: no such file, no state dict, or tensors that do not fit by number or shape.
        """
        published = _state_dict(path)
        full = MobileNet3D(1, self._coarse_times)
        ours = {name: tensor for name, tensor in full.state_dict().items() if _is_weight(name)}
        if len(published) != len(ours):
            raise InputError(
                f"{path} has {len(published)} tensors before its classifier; expected the {len(ours)} of "
                "torchvision's mobilenet_v2: save its state_dict() with torch.save"
            )
        for (name, tensor), (other, value) in zip(ours.items(), published.items(), strict=True):
            flat = (*tensor.shape[:2], *tensor.shape[3:])
            if tuple(value.shape) != flat:
                raise InputError(
                    f"{path}: {other} is {tuple(value.shape)}, {name} wants {flat}: "
                    "expected torchvision's mobilenet_v2 at width 1"
                )
            tensor.copy_(value.unsqueeze(2).expand_as(tensor) if value.dim() == 4 else value)
        self.take(full)


def group_means(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the means of equal, consecutive groups of channels (axes 0 and 1), so as to have `shape`."""
    for axis, size in enumerate(shape[:2]):
        weight = weight.reshape(*weight.shape[:axis], size, -1, *weight.shape[axis + 1 :]).mean(axis + 1)
    return weight


def _pixel_shuffle_frames(x: Tensor) -> Tensor:
    """PixelShuffle(2) in each frame: (N, 4C, T, H, W) to (N, C, T, 2H, 2W)."""
    frames = F.pixel_shuffle(x.transpose(1, 2).flatten(0, 1), 2)
    return frames.reshape(x.shape[0], x.shape[2], *frames.shape[1:]).transpose(1, 2)


def _is_weight(name: str) -> bool:
    return not name.startswith("classifier.") and not name.endswith("num_batches_tracked")


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        document: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"no weights at {path}; expected a state dict of torchvision's mobilenet_v2"
        ) from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        document = None
    if not isinstance(document, dict) or not all(isinstance(value, Tensor) for value in document.values()):
        raise InputError(
            f"{path} is no state dict; expected that of torchvision's mobilenet_v2, written by torch.save"
        )
    return {name: value for name, value in document.items() if _is_weight(name)}
