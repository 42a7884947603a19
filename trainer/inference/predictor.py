"""Interface of predictors: sources of saliency maps for the frames of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.datasets.clips import LabelledFrame

Map = NDArray[np.float32]
LabelledMap = tuple[LabelledFrame, Map]
DEFAULT_FPS = 30.0
"""Frame rate of clips whose rate is unknown."""


class Predictor(Protocol):
    """Source of saliency maps. `description` names the model and what computes it."""

    description: str

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames of a clip with their maps.

        Args:
            clip: Name of the clip.
            frames: All frames of the clip, in order.
            every: Yield only frames whose index is a multiple of this.

        Yields:
            A frame and its map (h, w), non-negative.
        """
