"""Base class of training stages: a loss, the parameters to train and their optimizer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from trainer.recipes.loader import StageTable

Batch = dict[str, Tensor]
MOMENTUM, WEIGHT_DECAY, RATE_DROPS_AT = 0.9, 5e-4, (0.5, 0.75, 0.9)
"""Settings of TinyHD's SGD; the rate drops to a tenth at these shares of a stage's steps."""


class TrainingStage(L.LightningModule):
    """Training stage of any recipe; `fit` runs it.

    Args:
        table: Table of the stage in the recipe.

    Attributes:
        memory_format: Memory format of the weights.
        allows_bfloat16_on_cpu: Whether a recipe's `mixed` also applies on CPUs.
    """

    memory_format = torch.channels_last
    allows_bfloat16_on_cpu = True

    def __init__(self, table: StageTable) -> None:
        super().__init__()
        self._table = table

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over the batch."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of the batch."""
        del index
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        """Return Adam with a constant rate (SKD), AdamW with warm-up and cosine, or TinyHD's SGD."""
        if self._table.schedule == "steps":
            return self._configure_sgd()
        parameters: Iterable[nn.Parameter] = [p for p in self.parameters() if p.requires_grad]
        if self._table.schedule == "constant":
            return torch.optim.Adam(parameters, self._table.rate)
        optimizer = torch.optim.AdamW(parameters, self._table.rate)
        warm_up, steps = max(1, self._table.steps // 10), self._table.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1))),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _configure_sgd(self) -> dict[str, Any]:
        """Return TinyHD's SGD: half the rate for encoders, twice the rate and no decay for biases.

        The authors reduce the rate at 100, 150 and 180 of 200 epochs and return to the best weights there.
        The latter needs a validation set and is left out.
        """
        groups = []
        for name, parameter in self.named_parameters():
            is_bias = name.endswith("bias")
            rate = self._table.rate * (0.5 if "encoder" in name.split(".") else 1) * (2 if is_bias else 1)
            if parameter.requires_grad:
                weight_decay = 0.0 if is_bias else WEIGHT_DECAY
                groups.append({"params": [parameter], "lr": rate, "weight_decay": weight_decay})
        optimizer = torch.optim.SGD(groups, self._table.rate, momentum=MOMENTUM)
        milestones = [round(self._table.steps * share) for share in RATE_DROPS_AT]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
