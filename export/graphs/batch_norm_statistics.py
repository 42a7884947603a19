"""What a student's batch norms remember of its training data, by the tensors of its exported graph."""

from __future__ import annotations

import numpy as np
import onnx
from torch import nn

from calibration.inputs.distribution_shift import Statistics


def batch_norm_statistics(module: nn.Module, model: onnx.ModelProto) -> Statistics:
    """Return mean and deviation of each channel of what folded convolutions make, over the training data.

    `model`: the graph exported from `module`, which still has its batch norms, each behind its convolution.
    """
    made = {node.input[1]: node.output[0] for node in model.graph.node if len(node.input) > 1}
    found = {}
    for name, block in module.named_modules():
        if not isinstance(block, nn.Sequential) or len(block) < 2:
            continue
        norm, tensor = block[1], made.get(f"{name}.0.weight")
        if isinstance(norm, nn.BatchNorm2d) and tensor is not None:
            mean, deviation = (values.detach().numpy() for values in (norm.bias, norm.weight))
            found[tensor] = (mean.astype(np.float32), np.abs(deviation).astype(np.float32))
    return found
