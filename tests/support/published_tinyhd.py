"""TinyHD's published checkpoints, and checkpoints in their layout with weights of our own.

The published files are not ours to ship. Tests that need them take their folder from `TINYHD_WEIGHTS`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer.models.mobilenet3d import DEVIATION, MEAN
from trainer.models.published.tinyhd_checkpoint import published_keys
from trainer.models.tinyhd import LEVELS, TinyHD, Variant


def find_weights(variant: Variant) -> Path:
    """Return the published checkpoint of a variant at rc 4; a test without it is skipped."""
    folder = os.environ.get("TINYHD_WEIGHTS")
    if not folder:
        pytest.skip("TINYHD_WEIGHTS does not name the folder of TinyHD's published weights")
    return Path(folder) / f"d123{variant.lower()}_rc4_rc1T.pth"


def formula_clip() -> NDArray[np.float32]:
    """Return the clip (1, 3, 16, 192, 256) of the reference that needs no frames, in -1 to 1."""
    channel, time, row, column = np.ogrid[:3, :16, :192, :256]
    clip = (2 * np.sin(0.05 * (channel + 1) * row + 0.07 * column + 0.3 * time)).astype(np.float32)
    mean, deviation = (np.reshape(values, (3, 1, 1, 1)) for values in (MEAN, DEVIATION))
    scaled: NDArray[np.float32] = (2 * (clip * deviation + mean) - 1).astype(np.float32)
    return scaled[None]


def write_checkpoint(
    path: Path, network: TinyHD, order: Sequence[str], mixed_order: Sequence[str] | None = None
) -> Path:
    """Write a network in the published layout.

    Args:
        path: File to write.
        network: The network.
        order: Order in which the decoders are numbered.
        mixed_order: Order in which their maps are mixed, if it is another one.
    """
    own = network.state_dict()
    tensors = {key: own[name] for name, key in published_keys(network, order).items()}
    starts = dict(zip(sorted(order), itertools.accumulate([0, *map(_singles, sorted(order))]), strict=False))
    channels = [starts[name] + index for name in mixed_order or order for index in range(_singles(name))]
    weight = own["fusion.weight"][:, channels]
    tensors["decoder.decoder.0.weight"] = weight[..., 0] if network.maps == 1 else weight
    tensors["decoder.decoder.0.bias"] = own["fusion.bias"]
    torch.save({"student_model": tensors}, path)
    return path


def _singles(decoder: str) -> int:
    return len(LEVELS) if decoder == "D1" else 1
