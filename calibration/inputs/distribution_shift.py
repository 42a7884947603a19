"""Detection of frames that differ from a network's training data, by its batch-norm statistics.

Batch norm gives each channel the mean and deviation that it learnt (its shift and scale) over the training
data. On other data the means move. (Nagel et al., "Data-free quantization", ICCV 2019, and Cai et al.,
"ZeroQ", CVPR 2020, use the same statistics in place of training data.)
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
"""File in a release with the arrays `mean/TENSOR` and `std/TENSOR`, one value per channel."""
MAX_WINDOWS = 64
"""Number of windows that are compared."""
MAX_SHIFT = 0.4
"""Mean shift, in standard deviations, from which frames count as different from the training data.

With skd-64: 20 synthetic scenes 0.08; eight real sequences 0.13 to 0.35 each and 0.07 together; the same ones
darkened to an eighth 0.45, their edges 0.56, pages of text 0.67, noise 2.5.
"""
ChannelStatistics = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Mean and standard deviation of each channel of a tensor over the training data, by tensor name."""


def statistics_from_batch_norms(model: onnx.ModelProto) -> ChannelStatistics:
    """Return the statistics of the outputs of a graph's BatchNormalization nodes; none if they are folded."""
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
    """Return the mean shift of channel means in standard deviations; None without statistics.

    The means are taken over all frames that are compared, so that a few unusual frames have little effect.

    Args:
        model: The fp32 graph.
        feeder: Maps a window to the inputs of the graph.
        windows: The frames; at most `MAX_WINDOWS` of them are compared.
        statistics: Statistics over the training data.
    """
    outputs = {output for node in model.graph.node for output in node.output}
    tensors = [name for name in statistics if name in outputs]
    if not tensors:
        return None
    session, tapped_session = open_session(model), open_session(model, outputs=tensors)
    sums = [np.zeros_like(statistics[name][0], np.float64) for name in tensors]
    sample = sample_evenly(windows, MAX_WINDOWS)
    for window in sample:
        values = tapped_session.run(tensors, feeder(session, window))
        for total, value in zip(sums, values, strict=True):
            total += value.mean(axis=(0, *range(2, value.ndim)))
    shifts = []
    for name, total in zip(tensors, sums, strict=True):
        mean, deviation = statistics[name]
        active = deviation > 1e-3 * deviation.max()
        shifts.append((np.abs(total / len(sample) - mean)[active] / deviation[active]).mean())
    return float(np.mean(shifts))


def shift_warning(shift: float | None) -> str | None:
    """Return a warning if the frames differ too much from the training data, else None."""
    if shift is None or shift < MAX_SHIFT:
        return None
    return (
        f"the frames look unlike the training data (activations moved by {shift:.2f} deviations, expected "
        f"less than {MAX_SHIFT}): the maps themselves may be wrong on them, in any precision"
    )


def save_statistics(statistics: ChannelStatistics, path: Path) -> None:
    """Write the statistics as an npz file."""
    arrays = {f"mean/{name}": mean for name, (mean, _) in statistics.items()}
    arrays |= {f"std/{name}": deviation for name, (_, deviation) in statistics.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_statistics(path: Path) -> ChannelStatistics:
    """Read statistics; return none if there is no file.

    Raises:
        InputError: If the file cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = [name.removeprefix("mean/") for name in file.files if name.startswith("mean/")]
            return {name: (file[f"mean/{name}"], file[f"std/{name}"]) for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error or 'empty'}): export the release again") from None
