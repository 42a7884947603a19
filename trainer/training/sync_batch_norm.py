"""Batch norm over the whole batch when processes share it, so that many train as one would.

torch's SyncBatchNorm runs on GPUs alone, and Lightning leaves a class in its place that our folding of
batch norm does not know; this one runs wherever the processes' backend does, and leaves nothing behind.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.distributed import all_reduce, get_world_size
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormSync(LayerSync):
    """Makes a model's batch norms use the statistics of all processes while it trains.

    Each process must hold an equal share of the batch. State and parameters stay as they are.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, its batch norms shared."""
        for module in model.modules():
            if type(module) in _SYNCED_CLASSES:
                module.__class__ = _SYNCED_CLASSES[type(module)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Return the model, its batch norms as they were."""
        own = {shared: plain for plain, shared in _SYNCED_CLASSES.items()}
        for module in model.modules():
            if type(module) in own:
                module.__class__ = own[type(module)]
        return model


class _SyncedBatchNorm(_BatchNorm):
    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        over = [0, *range(2, values.dim())]
        whole = values.float()
        mean = _all_reduce_mean(whole.mean(over, keepdim=True))
        variance = _all_reduce_mean((whole - mean).square().mean(over, keepdim=True))
        self._update_running_statistics(mean, variance, values.numel() // values.shape[1] * get_world_size())
        scaled = (whole - mean) * (variance + self.eps).rsqrt()
        return (scaled * self.weight.view_as(mean) + self.bias.view_as(mean)).to(values.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        share, state = self.momentum, self.state_dict()
        assert share is not None
        state["num_batches_tracked"].add_(1)
        state["running_mean"].lerp_(mean.flatten(), share)
        state["running_var"].lerp_(variance.flatten() * count / (count - 1), share)


class _SyncedBatchNorm2d(_SyncedBatchNorm, nn.BatchNorm2d):
    pass


class _SyncedBatchNorm3d(_SyncedBatchNorm, nn.BatchNorm3d):
    pass


_SYNCED_CLASSES: dict[type, type] = {nn.BatchNorm2d: _SyncedBatchNorm2d, nn.BatchNorm3d: _SyncedBatchNorm3d}


def _all_reduce_mean(value: Tensor) -> Tensor:
    mean: Tensor = _AllReduceMean.apply(value)  # type: ignore[no-untyped-call]
    return mean


class _AllReduceMean(torch.autograd.Function):
    """The mean over processes, which each process's loss depends on, and so on each process's values."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        whole = value.clone(memory_format=torch.contiguous_format)
        all_reduce(whole)
        return whole / get_world_size()

    backward = forward
