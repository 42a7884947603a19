"""Batch norm over the batches of all processes, so that many processes train like one.

torch's SyncBatchNorm needs GPUs, and Lightning leaves its class in the network, where our folding of batch
norm does not recognize it. This one runs on every backend and restores the original classes.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.distributed import all_reduce, get_world_size
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormSync(LayerSync):
    """Plugin that makes batch norms use the statistics of all processes during training.

    Each process must hold an equal share of the batch. State and parameters do not change.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model with synchronized batch norms."""
        for module in model.modules():
            if type(module) in _SYNCED_CLASSES:
                module.__class__ = _SYNCED_CLASSES[type(module)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model with its original batch norms."""
        original_classes = {synced: original for original, synced in _SYNCED_CLASSES.items()}
        for module in model.modules():
            if type(module) in original_classes:
                module.__class__ = original_classes[type(module)]
        return model


class _SyncedBatchNorm(_BatchNorm):
    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        reduced_axes = [0, *range(2, values.dim())]
        single = values.float()
        mean = _all_reduce_mean(single.mean(reduced_axes, keepdim=True))
        variance = _all_reduce_mean((single - mean).square().mean(reduced_axes, keepdim=True))
        count = values.numel() // values.shape[1] * get_world_size()
        self._update_running_statistics(mean, variance, count)
        scaled = (single - mean) * (variance + self.eps).rsqrt()
        return (scaled * self.weight.view_as(mean) + self.bias.view_as(mean)).to(values.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        momentum, state = self.momentum, self.state_dict()
        assert momentum is not None
        state["num_batches_tracked"].add_(1)
        state["running_mean"].lerp_(mean.flatten(), momentum)
        state["running_var"].lerp_(variance.flatten() * count / (count - 1), momentum)


class _SyncedBatchNorm2d(_SyncedBatchNorm, nn.BatchNorm2d):
    pass


class _SyncedBatchNorm3d(_SyncedBatchNorm, nn.BatchNorm3d):
    pass


_SYNCED_CLASSES: dict[type, type] = {nn.BatchNorm2d: _SyncedBatchNorm2d, nn.BatchNorm3d: _SyncedBatchNorm3d}


def _all_reduce_mean(value: Tensor) -> Tensor:
    mean: Tensor = _AllReduceMean.apply(value)  # type: ignore[no-untyped-call]
    return mean


class _AllReduceMean(torch.autograd.Function):
    """Mean over processes whose gradient flows back to the values of each process."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total / get_world_size()

    backward = forward
