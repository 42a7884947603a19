"""MobileNetV2 inflated to three dimensions, the encoder of TinyHD (Hu et al., "TinyHD", WACV 2023, arXiv
2301.04619, section 3.1), after Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381).

Layers are in the order of torchvision's `mobilenet_v2`, so that its ImageNet weights can be loaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.core.errors import InputError

Reduction = Literal[1, 2, 4, 8]
REDUCTIONS: tuple[Reduction, ...] = (1, 2, 4, 8)
CLIP_FRAMES = 16
"""Frames in a clip."""
SIDE_MULTIPLE = 32
"""The sides of a clip must be multiples of this."""

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's RGB values in 0 to 1, as torchvision's weights expect."""

Triple = tuple[int, int, int]


def check_clip(clip: Tensor) -> None:
    """Raise InputError unless the clip is (N, 3, 16, H, W) with sides that are multiples of 32."""
    shape = tuple(clip.shape)
    if shape[1:3] != (3, CLIP_FRAMES) or len(shape) != 5 or any(side % SIDE_MULTIPLE for side in shape[3:]):
        raise InputError(
            f"the clip has shape {shape}; expected (N, 3, {CLIP_FRAMES}, H, W) with sides that are multiples "
            f"of {SIDE_MULTIPLE}: take {CLIP_FRAMES} frames and resize them, for example to 192 x 256"
        )


class TemporalKernel(NamedTuple):
    """Size, stride and padding of a depthwise convolution along time."""

    size: int
    stride: int
    padding: int


HALVE_TIME = TemporalKernel(3, 2, 1)
KEEP_TIME = TemporalKernel(3, 1, 1)
FLAT_TIME = TemporalKernel(1, 1, 0)
JOIN_TIME = TemporalKernel(2, 1, 0)
"""Joins two time steps to one."""


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: Triple = (1, 1, 1),
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    groups: int = 1,
    act: bool = True,
) -> list[nn.Module]:
    """Return a convolution, batch norm and, if `act`, ReLU6."""
    layers: list[nn.Module] = [
        nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm3d(outputs),
    ]
    return [*layers, nn.ReLU6()] if act else layers


def inverted_residual(
    inputs: int, outputs: int, expansion: int, time: TemporalKernel, space_stride: int = 1
) -> nn.Sequential:
    """Return MobileNetV2's block without skip: expansion, depthwise convolution in 3-D, projection.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        expansion: Factor of the inner channels.
        time: Depthwise convolution along time.
        space_stride: Stride of the depthwise convolution in space.
    """
    inner = inputs * expansion
    kernel, stride = (time.size, 3, 3), (time.stride, space_stride, space_stride)
    layers = conv_norm(inputs, inner) if expansion > 1 else []
    layers += conv_norm(inner, inner, kernel, stride, (time.padding, 1, 1), groups=inner)
    return nn.Sequential(*layers, *conv_norm(inner, outputs, act=False))


def pixel_shuffle_frames(x: Tensor) -> Tensor:
    """Apply PixelShuffle(2) to each frame: (N, 4C, T, H, W) to (N, C, T, 2H, 2W)."""
    frames = F.pixel_shuffle(x.transpose(1, 2).flatten(0, 1), 2)
    return frames.reshape(x.shape[0], x.shape[2], *frames.shape[1:]).transpose(1, 2)


def double_sides(x: Tensor) -> Tensor:
    """Interpolate features (N, C, T, H, W) to (N, C, T, 2H, 2W), with aligned corners."""
    return _interpolate(x, x.shape[2], 2 * x.shape[3], 2 * x.shape[4])


def double_time(x: Tensor) -> Tensor:
    """Interpolate features (N, C, T, H, W) to (N, C, 2T, H, W), with aligned first and last steps."""
    return _interpolate(x, 2 * x.shape[2], x.shape[3], x.shape[4])


def _interpolate(x: Tensor, times: int, height: int, width: int) -> Tensor:
    # By sizes, not scales: ONNX shares equal scales, which the converter to float16 cannot handle.
    return F.interpolate(x, size=(times, height, width), mode="trilinear", align_corners=True)


class ImageNetScaling(nn.Module):
    """Fixed layer from the scaling of all students, v / 127.5 - 1, to that of ImageNet.

    It is part of the network and not of preprocessing, so that preprocessing is the same for all students.
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
    """Inverted residual with a skip connection where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, time: TemporalKernel, space_stride: int
    ) -> None:
        super().__init__()
        self.layers = inverted_residual(inputs, outputs, expansion, time, space_stride)
        self.skip = space_stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


class _Stage(NamedTuple):
    """Blocks of equal width; the first block may halve the sides and change the time steps."""

    expansion: int
    width: int
    blocks: int
    space_stride: int
    first_time: TemporalKernel
    other_time: TemporalKernel


class MobileNet3D(nn.Module):
    """Clip (N, 3, 16, H, W), in -1 to 1, to features x0 to x3, finest first.

    The outputs of all 18 blocks are concatenated per scale. All but those of the first block are then
    upsampled to twice the side: by PixelShuffle(2) in each frame, or, at rc 8, whose widths it does not
    divide, by interpolation. At rc 1 and 192 x 256 the features are (N, 28, 8, 96, 128),
    (N, 24, 4, 48, 64), (N, 136, 2, 24, 32) and (N, 520, `coarse_times`, 12, 16).

    Args:
        rc: Channel reduction, the divisor of every width.
        coarse_times: Time steps of x3: 2 for a student with one map, 1 for a student with 16 maps, whose
            decoders double time with the sides, up to 16.

    Attributes:
        channels: Channels of x0 to x3.
    """

    def __init__(self, rc: Reduction = 1, coarse_times: Literal[1, 2] = 2) -> None:
        super().__init__()
        joined, after = (KEEP_TIME, KEEP_TIME) if coarse_times == 2 else (JOIN_TIME, FLAT_TIME)
        stages = (
            _Stage(1, 16, 1, 1, KEEP_TIME, KEEP_TIME),
            _Stage(6, 24, 2, 2, KEEP_TIME, KEEP_TIME),
            _Stage(6, 32, 3, 2, HALVE_TIME, KEEP_TIME),
            _Stage(6, 64, 4, 2, HALVE_TIME, KEEP_TIME),
            _Stage(6, 96, 3, 1, KEEP_TIME, KEEP_TIME),
            _Stage(6, 160, 3, 2, joined, after),
            _Stage(6, 320, 1, 1, after, after),
        )
        self._coarse_times = coarse_times
        self._shuffles = rc < 8
        channels = 32 // rc
        self.scaling = ImageNetScaling()
        self.stem = nn.Sequential(*conv_norm(3, channels, (3, 3, 3), (2, 2, 2), (1, 1, 1)))
        scale = nn.Sequential()
        self.scales = nn.ModuleList([scale])
        totals = [0]  # channels of all outputs at strides 2, 4, 8, 16 and 32
        for stage in stages:
            outputs = stage.width // rc
            if stage.space_stride == 2:
                scale = nn.Sequential()
                self.scales.append(scale)
                totals.append(0)
            for block in range(stage.blocks):
                stride, time = (1, stage.other_time) if block else (stage.space_stride, stage.first_time)
                scale.append(_InvertedResidual3d(channels, outputs, stage.expansion, time, stride))
                totals[-1] += outputs
                channels = outputs
        scale.append(nn.Sequential(*conv_norm(channels, 1280 // rc)))
        totals[-1] += 1280 // rc
        stride2, *coarser = totals
        stride4, *others = [total // 4 if self._shuffles else total for total in coarser]
        self.channels = (stride2 + stride4, *others)

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
        upsample = pixel_shuffle_frames if self._shuffles else double_sides
        stride2, *coarser = tapped
        stride4, *others = [upsample(x) for x in coarser]
        return [torch.cat([stride2, stride4], dim=1), *others]

    def load_averaged(self, full: MobileNet3D) -> None:
        """Start from an encoder of full width (rc 1): each weight is the mean of a group of its weights."""
        full_state = full.state_dict()
        for name, tensor in self.state_dict().items():
            tensor.copy_(group_means(full_state[name], tensor.shape))

    def load_imagenet(self, path: Path) -> None:
        """Start from a file with the state dict of torchvision's `mobilenet_v2`.

        Its tensors have the order of ours but other names. Kernels are copied along time. They are not
        divided by its length, because batch norm follows each of them. At rc > 1 they are then reduced as
        in `load_averaged`.

        Raises:
            InputError: No such file, no state dict, or tensors that do not fit in number or shape.
        """
        published = _state_dict(path)
        full = MobileNet3D(1, self._coarse_times)
        weights = {name: tensor for name, tensor in full.state_dict().items() if _is_weight(name)}
        if len(published) != len(weights):
            raise InputError(
                f"{path} has {len(published)} tensors before its classifier; expected the {len(weights)} of "
                "torchvision's mobilenet_v2: save its state_dict() with torch.save"
            )
        for (name, tensor), (other, value) in zip(weights.items(), published.items(), strict=True):
            flat = (*tensor.shape[:2], *tensor.shape[3:])
            if tuple(value.shape) != flat:
                raise InputError(
                    f"{path}: {other} is {tuple(value.shape)}, {name} needs {flat}; "
                    "expected torchvision's mobilenet_v2 at width 1"
                )
            tensor.copy_(value.unsqueeze(2).expand_as(tensor) if value.dim() == 4 else value)
        self.load_averaged(full)


def group_means(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the means of equal, consecutive groups of channels (axes 0 and 1), reduced to `shape`."""
    for axis, size in enumerate(shape[:2]):
        weight = weight.reshape(*weight.shape[:axis], size, -1, *weight.shape[axis + 1 :]).mean(axis + 1)
    return weight


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
            f"{path} is not a state dict; expected that of torchvision's mobilenet_v2, written by torch.save"
        )
    return {name: value for name, value in document.items() if _is_weight(name)}
