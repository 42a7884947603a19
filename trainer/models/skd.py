"""Networks of SKD: Li, Fu, Zhao, Ge, "Spatiotemporal Knowledge Distillation for Efficient Estimation of
Aerial Video Saliency", IEEE TIP 29 (2020), arXiv 1904.04992.

Two students, spatial and temporal, are distilled from two teachers. Their weights are then copied into one
spatiotemporal network. The paper's local response normalization is left out, because it gains little and
exports badly. Every network is fully convolutional, and the sides of its input must be multiples of 4.

The difference of frames as an input of an `aligned` network is our addition. After alignment, this
difference shows independent motion, which the pooled features blur. Streaming students share it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RESOLUTIONS = (32, 64, 96, 128, 256)
FEATURES = 64
"""Channels of the trunk's output, whose sides are a quarter of the frame's."""
STRIDE = 4
DIFFERENCE_CHANNELS, DIFFERENCE_GAIN = 6, 4.0
"""Channels of the frame difference, and the factor that scales it to the size of the features."""


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _upsampling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Trunk(nn.Sequential):
    """Frame (N, 3, H, W) to features (N, 64, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__(
            _convolution(3, 16),
            _convolution(16, 16),
            nn.MaxPool2d(3, stride=2, padding=1),
            _convolution(16, 32),
            nn.MaxPool2d(3, stride=2, padding=1),
            _convolution(32, FEATURES),
        )


class SpatialBranch(nn.Sequential):
    """Trunk features (N, 64, h, w) to (N, 128, h, w)."""

    def __init__(self) -> None:
        super().__init__(_convolution(FEATURES, 64), _convolution(64, 128))


class TemporalBranch(nn.Sequential):
    """Trunk features and their difference, concatenated (N, 128, h, w), to (N, 128, h, w).

    If aligned, the frame difference is a third input (N, 134, h, w).
    """

    def __init__(self, aligned: bool = False) -> None:
        super().__init__(
            _convolution(2 * FEATURES + DIFFERENCE_CHANNELS * aligned, 64), _convolution(64, 128)
        )


class Decoder(nn.Sequential):
    """Branch features (N, inputs, h, w) to a raw map (N, 1, 4h, 4w)."""

    def __init__(self, inputs: int) -> None:
        super().__init__(
            _convolution(inputs, 32, kernel=1),
            _convolution(32, 32),
            _convolution(32, 32),
            _convolution(32, 16),
            _upsampling(16, 8),
            _upsampling(8, 1),
        )


def _with_difference(features: Tensor, other: Tensor, difference: Tensor | None) -> Tensor:
    return torch.cat([features, features - other, *([] if difference is None else [difference])], dim=1)


def frame_differences(frame: Tensor, other: Tensor, levels: int = 1) -> list[Tensor]:
    """Return mean and maximum of the difference of frames (N, 3, H, W) in each cell, for each level.

    Args:
        frame: The frame.
        other: The earlier frame, aligned.
        levels: Number of levels. The first, (N, 6, H/4, W/4), has cells of 4 x 4 pixels, each other one cells
            of twice the sides.
    """
    difference = DIFFERENCE_GAIN * (frame - other).abs()
    mean, largest = F.avg_pool2d(difference, STRIDE), F.max_pool2d(difference, STRIDE)
    differences = [torch.cat([mean, largest], dim=1)]
    for _ in range(levels - 1):
        mean, largest = F.avg_pool2d(mean, 2), F.max_pool2d(largest, 2)
        differences.append(torch.cat([mean, largest], dim=1))
    return differences


class SpatialStudent(nn.Module):
    """One frame to a raw map: trunk, spatial branch and a separate decoder (figure 2)."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.branch = SpatialBranch()
        self.decoder = Decoder(128)

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the raw map (N, 1, H, W) of `frame` (N, 3, H, W); `other` is ignored."""
        del other
        raw: Tensor = self.decoder(self.branch(self.trunk(frame)))
        return raw


class TemporalStudent(nn.Module):
    """Two frames to a raw map: trunk, temporal branch and a separate decoder (figure 2)."""

    def __init__(self, trunk: Trunk, aligned: bool = False) -> None:
        super().__init__()
        self.trunk, self.aligned = trunk, aligned
        self.branch = TemporalBranch(aligned)
        self.decoder = Decoder(128)

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the raw map (N, 1, H, W) of `frame`, given its neighbour (N, 3, H, W) in time."""
        difference = frame_differences(frame, other)[0] if self.aligned else None
        raw: Tensor = self.decoder(
            self.branch(_with_difference(self.trunk(frame), self.trunk(other), difference))
        )
        return raw


class SpatiotemporalNetwork(nn.Module):
    """Two frames to a raw map by both branches: the network that is deployed (figure 2)."""

    def __init__(self, aligned: bool = False) -> None:
        super().__init__()
        self.aligned = aligned
        self.trunk = Trunk()
        self.spatial = SpatialBranch()
        self.temporal = TemporalBranch(aligned)
        self.decoder = Decoder(256)

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the raw map (N, 1, H, W) of `frame`, given its neighbour (N, 3, H, W) in time."""
        difference = frame_differences(frame, other)[0] if self.aligned else None
        return self.fuse(self.trunk(frame), self.trunk(other), difference)

    def fuse(self, features: Tensor, other: Tensor, difference: Tensor | None = None) -> Tensor:
        """Return the raw map of the frame with trunk features `features` (N, 64, h, w).

        The features of one step are those of the other frame in the next step. A stream that keeps them
        runs the trunk once per frame, with exactly the result of the pair.
        """
        branches = [self.spatial(features), self.temporal(_with_difference(features, other, difference))]
        raw: Tensor = self.decoder(torch.cat(branches, dim=1))
        return raw

    def copy_branches(self, spatial: SpatialStudent, temporal: TemporalStudent) -> None:
        """Copy the students' weights: the weight transfer of stage 2 (section III-C).

        The students share one trunk, so copying the trunk of one of them loses nothing.
        """
        self.trunk.load_state_dict(spatial.trunk.state_dict())
        self.spatial.load_state_dict(spatial.branch.state_dict())
        self.temporal.load_state_dict(temporal.branch.state_dict())


@torch.no_grad()
def load_overlapping_weights(network: nn.Module, other: nn.Module) -> None:
    """Copy the weights of another network, with or without alignment; those of inputs that it lacks stay."""
    for target, source in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        if target.dim() == 4:
            inputs = min(target.shape[1], source.shape[1])
            target[:, :inputs] = source[:, :inputs]
        else:
            target.copy_(source)
