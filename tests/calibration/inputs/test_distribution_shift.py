"""Tests of the warning for frames that differ from the training data."""

from __future__ import annotations

import numpy as np
import onnx

from calibration.inputs.distribution_shift import (
    STATISTICS_FILE,
    load_statistics,
    measure_shift,
    shift_warning,
)
from edge.release.manifest import load_release
from edge.simulation.world import World
from export.release.recalibrate import release_feeder


def test_warning_for_frames_unlike_the_training_data() -> None:
    """The shipped student on synthetic flights, and on noise."""
    release = load_release("skd-64")
    model = onnx.load(release.path(release.graph("fp32")))
    feeder, statistics = (
        release_feeder(release, "stream"),
        load_statistics(release.folder / STATISTICS_FILE),
    )
    synthetic = np.stack(
        [
            np.stack([release.preprocessing.resize(World(seed, 256, 144).frame(i).image) for i in (4, 5)])
            for seed in range(6)
        ]
    )
    noise = np.random.default_rng(0).integers(0, 256, synthetic.shape, np.uint8)
    similar, different = (measure_shift(model, feeder, windows, statistics) for windows in (synthetic, noise))
    assert similar is not None
    assert different is not None
    assert similar < 0.25 < 2 < different
    assert shift_warning(similar) is None
    assert "unlike the training data" in str(shift_warning(different))
    assert measure_shift(model, feeder, synthetic, {}) is None
    assert shift_warning(None) is None
