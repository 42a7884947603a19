"""Whether frames look like what a network was trained on, by what its batch norms remember of that.

Batch norm leaves each channel with the mean and deviation that it learnt (its shift and scale), over the
training data. On other data the means move. (The same statistics stand in for training data in Nagel et
al., "Data-free quantization", ICCV 2019, and Cai et al., "ZeroQ", CVPR 2020.)
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.inputs.calibration_frames import Windows, sample_evenly
from calibration.inputs.graph_inputs import InputFeeder, open_session
from edge.core.errors import InputError

STATISTICS_FILE = "statistics.npz"
"""In a release: `mean/TENSOR` and `std/TENSOR`, a number a channel."""
MAX_WINDOWS = 64
"""Windows."""
MAX_SHIFT = 0.4
"""Mean shift, in deviations, from which frames are called unlike. With skd-64: 20 made scenes .08, eight
real sequences .13 to .35 each and .07 together; the same darkened to an eighth .45, their edges .56, pages
of text .67, noise 2.5."""
ChannelStatistics = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Mean and deviation of each channel of a tensor, over the training data."""


def statistics_from_batch_norms(model: onnx.ModelProto) -> ChannelStatistics:
    """Return what a graph's BatchNormalization nodes say of what they make; none if they were folded."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.output[0]: (
            numpy_helper.to_array(weights[node.input[2]]).astype(np.float32),
            np.abs(numpy_helper.to_array(weights[node.input[1]])).astype(np.float32),
        )
        for node in model.graph.node
        if node.op_type == "BatchNormalization" and all(name in weights for name in node.input[1:3])
    }


def measure_shift(
    model: onnx.ModelProto, feeder: InputFeeder, windows: Windows, statistics: ChannelStatistics
) -> float | None:
    """Return by how many deviations the means of channels moved, on average; None if nothing is known.

    Compared are means over all frames looked at, so a few odd frames among many do not show.
    """
    made = {output for node in model.graph.node for output in node.output}
    known = [name for name in statistics if name in made]
    if not known:
        return None
    session, inside = open_session(model), open_session(model, outputs=known)
    sums = [np.zeros_like(statistics[name][0], np.float64) for name in known]
    chosen = sample_evenly(windows, MAX_WINDOWS)
    for window in chosen:
        for total, value in zip(sums, inside.run(known, feeder(session, window)), strict=True):
            total += value.mean(axis=(0, *range(2, value.ndim)))
    moved = []
    for name, total in zip(known, sums, strict=True):
        mean, deviation = statistics[name]
        alive = deviation > 1e-3 * deviation.max()
        moved.append((np.abs(total / len(chosen) - mean)[alive] / deviation[alive]).mean())
    return float(np.mean(moved))


def shift_warning(moved: float | None) -> str | None:
    """Return a sentence if frames moved the means too far."""
    if moved is None or moved < MAX_SHIFT:
        return None
    return (
        f"the frames look unlike the training data (activations moved by {moved:.2f} deviations, expected "
        f"less than {MAX_SHIFT}): the maps themselves may be wrong on them, in any precision"
    )


def save_statistics(statistics: ChannelStatistics, path: Path) -> None:
    """Write the statistics as an npz file."""
    arrays = {f"mean/{name}": mean for name, (mean, _) in statistics.items()}
    arrays |= {f"std/{name}": deviation for name, (_, deviation) in statistics.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_statistics(path: Path) -> ChannelStatistics:
    """Read statistics; none where there is no file.

    Raises:
        InputError: the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = [name.removeprefix("mean/") for name in file.files if name.startswith("mean/")]
            return {name: (file[f"mean/{name}"], file[f"std/{name}"]) for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error or 'empty'}): export the release again") from None
