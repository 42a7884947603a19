"""Cost of a network: multiply-accumulates, counted while the layers run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
_COUNTED = (nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)


def multiply_accumulates(network: nn.Module, *inputs: Tensor) -> int:
    """Return the multiply-accumulates of `network(*inputs)` for the whole batch.

    Convolutions, transposed convolutions and linear layers are counted. Activations, norms, pooling and
    resizing are not, as is usual in papers. The network is left in evaluation mode. Only shapes matter: on
    torch's "meta" device nothing is computed.
    """
    total = 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight: Any = module.weight
        # Each output value sums over one filter. In a transposed convolution, each input value feeds one.
        values = arguments[0] if isinstance(module, _TRANSPOSED) else output
        total += values.numel() * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, _COUNTED)]
    try:
        with torch.inference_mode():
            network.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total
