"""Folding of batch norm into convolutions, as in exported graphs, and its inverse."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainer.models.skd import FEATURES, SpatiotemporalNetwork

BatchNorm = nn.BatchNorm2d | nn.BatchNorm3d


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy with batch norms, and SKD's feature differences, folded into the convolutions."""
    module = copy.deepcopy(module).eval()
    for block in [m for m in module.modules() if isinstance(m, nn.Sequential)]:
        for index, norm in enumerate(block):
            if not isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
                continue
            convolution = block[index - 1]
            assert isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d))
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            block[index - 1] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
            block[index] = nn.Identity()
    for parent in list(module.modules()):
        for name, network in parent.named_children():
            if isinstance(network, SpatiotemporalNetwork):
                setattr(parent, name, _DifferenceFolded(network))
    return module


class _DifferenceFolded(SpatiotemporalNetwork):
    """SKD's network with the feature difference folded: A f + B (f - g) = (A + B) f - B g."""

    def __init__(self, network: SpatiotemporalNetwork) -> None:
        """Take over the parts of `network`, which must not be used afterwards."""
        super().__init__(network.aligned)
        self.trunk, self.decoder = network.trunk, network.decoder
        self.spatial, self.temporal = network.spatial, network.temporal
        first = self.temporal.get_submodule("0.0")
        assert isinstance(first, nn.Conv2d)
        first.weight.data[:, :FEATURES] += first.weight.data[:, FEATURES : 2 * FEATURES]
        first.weight.data[:, FEATURES : 2 * FEATURES].neg_()

    def fuse(self, features: Tensor, other: Tensor, difference: Tensor | None = None) -> Tensor:
        """Return the raw map."""
        inputs = [features, other, *([] if difference is None else [difference])]
        temporal = self.temporal(torch.cat(inputs, dim=1))
        raw: Tensor = self.decoder(torch.cat([self.spatial(features), temporal], dim=1))
        return raw


@torch.no_grad()
def unfold_batch_norm(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set the parameters of a module so that it computes the same as its folded form.

    Batch norms keep their shift and scale, which say something about the training data. Convolutions and
    running statistics compensate. A scale near 0 is raised until division by it is numerically sound.

    Args:
        module: Module to change.
        values: Parameters of the folded form by name.
    """
    values = dict(values)
    for name, network in module.named_modules():
        if isinstance(network, SpatiotemporalNetwork):  # invert (A + B) f - B g
            first = values[f"{name}.temporal.0.0.weight"].clone()
            first[:, FEATURES : 2 * FEATURES].neg_()
            first[:, :FEATURES] -= first[:, FEATURES : 2 * FEATURES]
            values[f"{name}.temporal.0.0.weight"] = first
    for norm, convolution_name in _batch_norms(module):
        convolution = module.get_submodule(convolution_name)
        weight, bias = values.pop(f"{convolution_name}.weight"), values.pop(f"{convolution_name}.bias")
        convolution.get_parameter("weight").copy_(weight)
        own_bias = convolution.bias if isinstance(convolution.bias, Tensor) else torch.zeros_like(bias)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.copy_(norm.weight.abs().clamp_min((2 * norm.eps) ** 0.5))
        norm.running_var.copy_(norm.weight**2 - norm.eps)
        norm.running_mean.copy_(own_bias + norm.bias - bias)
    parameters = dict(module.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)


def _batch_norms(module: nn.Module) -> Iterator[tuple[BatchNorm, str]]:
    """Yield each batch norm and the name of the convolution before it."""
    for name, block in module.named_modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index, norm in enumerate(block):
            if isinstance(norm, BatchNorm):
                yield norm, f"{name}.{index - 1}".lstrip(".")
