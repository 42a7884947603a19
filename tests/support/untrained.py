"""Networks that nobody trained, but whose maps show something: to time and to compare, not to find with."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.streaming import StreamingNetwork
from trainer.models.tinyhd import TinyHD

Network = TypeVar("Network", StreamingNetwork, TinyHD)


def settled(network: Network, height: int, width: int, contrast: float = 1.0) -> Network:
    """Return the network with batch norms that have seen two made flights.

    `contrast`: the deviation of the raw fused map, whose mean is 0; its sigmoid or exponential comes out.
    """
    prepare, worlds = Preprocessing(width, height), [World(seed, 320, 180) for seed in (1, 2)]
    clips = [np.stack([prepare(w.frame(i).image)[0] for i in range(CLIP_FRAMES)], axis=1) for w in worlds]
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 0.95
    raws: list[torch.Tensor] = []
    hook = network.fusion.register_forward_hook(lambda module, given, made: raws.append(made))
    with torch.no_grad():
        network(torch.from_numpy(np.stack(clips)))
        network.eval()(torch.from_numpy(np.stack(clips)))
        gain = contrast / raws[-1].std()
        network.fusion.weight *= gain
        assert network.fusion.bias is not None
        network.fusion.bias.copy_((network.fusion.bias - raws[-1].mean()) * gain)
    hook.remove()
    return network
