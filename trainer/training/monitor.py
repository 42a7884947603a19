"""Lightning callback that reports progress and stops a training whose loss diverges."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from edge.core.errors import InputError

LOSS_WINDOW = 20
"""Steps over which the loss is averaged, at the start and later."""


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a stage after a step.

    Attributes:
        stage: Name of the stage.
        step: Steps done.
        steps: Steps of the stage.
        loss: Loss of the step.
        data_wait: Share of the stage's time that was spent waiting for data.
    """

    stage: str
    step: int
    steps: int
    loss: float
    data_wait: float


class LossMonitor(Callback):
    """Callback that reports each step and ends a training that is interrupted or whose loss diverges.

    Args:
        stage: Name of the stage.
        steps: Steps of the stage.
        on_step: Function that is called after each step.

    Attributes:
        interrupted: Event that ends the training between two steps.
    """

    def __init__(self, stage: str, steps: int, on_step: Callable[[TrainingProgress], None]) -> None:
        self._stage, self._steps, self._on_step = stage, steps, on_step
        self.interrupted = threading.Event()
        self._first_losses: list[float] = []
        self._average = 0.0
        self._waited_s = 0.0
        self._started_s = self._ended_s = 0.0

    @property
    def state_key(self) -> str:
        """Return the key of this callback in checkpoints."""
        return "_Watch"  # the name of the class in versions whose checkpoints must still load

    def state_dict(self) -> dict[str, Any]:
        """Return the losses of the first steps and the current average."""
        return {"first": self._first_losses, "smooth": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses from a checkpoint."""
        self._first_losses, self._average = list(state_dict["first"]), state_dict["smooth"]

    def on_train_batch_start(self, *args: Any) -> None:
        """Count the time since the last step as waiting for data; the first batch starts the clock."""
        self._end_if_interrupted()
        now_s = time.perf_counter()
        self._started_s = self._started_s or now_s
        self._waited_s += now_s - (self._ended_s or now_s)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Check, log and report the loss.

        Raises:
            InputError: The loss is not finite, or has diverged.
        """
        loss, step = float(outputs["loss"]), trainer.global_step
        self._ended_s = time.perf_counter()
        data_wait = self._waited_s / max(self._ended_s - self._started_s, 1e-9)
        self._check(loss, step)
        pl_module.log_dict({"loss": loss, "wait": data_wait})
        self._on_step(TrainingProgress(self._stage, step, self._steps, loss, data_wait))
        self._end_if_interrupted()

    def _check(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise InputError(f"{self._stage}: the loss became {loss} at step {step}; lower the stage's rate")
        if len(self._first_losses) < LOSS_WINDOW:
            self._first_losses.append(loss)
            self._average = sum(self._first_losses) / len(self._first_losses)
            return
        self._average += (loss - self._average) / LOSS_WINDOW
        initial = sum(self._first_losses) / LOSS_WINDOW
        can_be_negative = min(self._first_losses) < 0  # as NSS, for which doubling means nothing
        limit = initial + max(1.0, abs(initial)) if can_be_negative else 2 * initial
        if self._average > limit:
            raise InputError(
                f"{self._stage}: the loss rose to {self._average:.3g} by step {step}, from {initial:.3g} at "
                "the start; lower the stage's rate"
            )

    def _end_if_interrupted(self) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt
