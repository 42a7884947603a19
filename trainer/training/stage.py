"""A training stage: a loss of a batch, and the parameters that it trains."""

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
"""Of TinyHD's SGD: the rate falls to a tenth at these shares of a stage's steps."""


class TrainingStage(L.LightningModule):
    """What a stage of any recipe has: see `fit` for how it is run."""

    layout = torch.channels_last
    """How its weights lie in memory."""
    allows_bfloat16_on_cpu = True
    """Whether a recipe's `mixed` holds on processors, too."""

    def __init__(self, table: StageTable) -> None:
        super().__init__()
        self._table = table

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over the batch."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the batch's loss."""
        del index
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        """Adam at a constant rate as in SKD, AdamW down a cosine after a short rise, or TinyHD's SGD."""
        if self._table.schedule == "steps":
            return self._stepped()
        parameters: Iterable[nn.Parameter] = [p for p in self.parameters() if p.requires_grad]
        if self._table.schedule == "constant":
            return torch.optim.Adam(parameters, self._table.rate)
        optimizer = torch.optim.AdamW(parameters, self._table.rate)
        rise, steps = max(1, self._table.steps // 10), self._table.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1))),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _stepped(self) -> dict[str, Any]:
        """TinyHD's: encoders at half the rate, biases at twice theirs and without decay, three steps down.

        The authors step at 100, 150 and 180 of 200 epochs, and go back to the best weights there: that
        needs a validation set, and is left out.
        """
        groups = []
        for name, parameter in self.named_parameters():
            bias = name.endswith("bias")
            rate = self._table.rate * (0.5 if "encoder" in name.split(".") else 1) * (2 if bias else 1)
            if parameter.requires_grad:
                groups.append(
                    {"params": [parameter], "lr": rate, "weight_decay": 0.0 if bias else WEIGHT_DECAY}
                )
        optimizer = torch.optim.SGD(groups, self._table.rate, momentum=MOMENTUM)
        milestones = [round(self._table.steps * share) for share in RATE_DROPS_AT]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
