"""A training stage: a loss of a batch, and the parameters that it trains."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from trainer.recipes import StageTable

Batch = dict[str, Tensor]


class Stage(L.LightningModule):
    """What a stage of any recipe has: see `fit` for how it is run."""

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
        """Adam at a constant rate as in SKD, or AdamW down a cosine after a short rise."""
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
