"""Channel statistics of the training data, read from the batch norms of a student."""

from __future__ import annotations

import numpy as np
import onnx
from torch import nn

from calibration.inputs.distribution_shift import ChannelStatistics


def batch_norm_statistics(module: nn.Module, model: onnx.ModelProto) -> ChannelStatistics:
    """Return mean and standard deviation per channel of the outputs of convolutions over the training data.

    A batch norm with weight and bias maps its input to a mean of `bias` and a deviation of `|weight|`.

    Args:
        module: The student, with each batch norm behind its convolution in a Sequential.
        model: The graph exported from it, with batch norms folded.

    Returns:
        Means and deviations by the names of the graph's tensors.
    """
    output_of_weight = {node.input[1]: node.output[0] for node in model.graph.node if len(node.input) > 1}
    statistics = {}
    for name, block in module.named_modules():
        if not isinstance(block, nn.Sequential) or len(block) < 2:
            continue
        norm, tensor = block[1], output_of_weight.get(f"{name}.0.weight")
        if isinstance(norm, nn.BatchNorm2d) and tensor is not None:
            mean, deviation = (values.detach().numpy() for values in (norm.bias, norm.weight))
            statistics[tensor] = (mean.astype(np.float32), np.abs(deviation).astype(np.float32))
    return statistics
