"""Untrained networks whose maps have contrast, for timing and comparing implementations."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.streaming import Reduction, StreamingNetwork
from trainer.models.tinyhd import TinyHD

Network = TypeVar("Network", StreamingNetwork, TinyHD)


def with_statistics(network: Network, height: int, width: int, contrast: float = 1.0) -> Network:
    """Return the network with batch norm statistics of two simulated clips.

    Args:
        network: Network to change.
        height: Height of the frames.
        width: Width of the frames.
        contrast: Standard deviation of the fused raw map, whose mean becomes 0. The network returns its
            sigmoid or exponential.
    """
    prepare, worlds = Preprocessing(width, height), [World(seed, 320, 180) for seed in (1, 2)]
    clips = [np.stack([prepare(w.frame(i).image)[0] for i in range(CLIP_FRAMES)], axis=1) for w in worlds]
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 0.95
    raw_maps: list[torch.Tensor] = []
    hook = network.fusion.register_forward_hook(lambda module, inputs, output: raw_maps.append(output))
    with torch.no_grad():
        network(torch.from_numpy(np.stack(clips)))
        network.eval()(torch.from_numpy(np.stack(clips)))
        gain = contrast / raw_maps[-1].std()
        network.fusion.weight *= gain
        assert network.fusion.bias is not None
        network.fusion.bias.copy_((network.fusion.bias - raw_maps[-1].mean()) * gain)
    hook.remove()
    return network


def small_streaming_network(rc: Reduction, seed: int = 0, aligned: bool = False) -> StreamingNetwork:
    """Return an untrained streaming network with batch norm statistics of random clips of 64 x 96."""
    torch.manual_seed(seed)
    network = StreamingNetwork(rc, aligned).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(1, network.channels, 6, 64, 96) * 2 - 1)
    return network.eval()
