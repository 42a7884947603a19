from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.models.efficientnet_lite import TAPS, EfficientNetLite0
from trainer.models.skd import (
    RESOLUTIONS,
    SpatialStudent,
    SpatiotemporalNetwork,
    TemporalStudent,
    Trunk,
)
from trainer.models.student import parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher

# Multiply-accumulates for a frame pair, in millions: arithmetic on the published layers.
MACS = {32: 29, 64: 116, 96: 261, 128: 464, 256: 1856}


def multiply_accumulates(network: nn.Module, *inputs: torch.Tensor) -> int:
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        area = output[0, 0].numel()
        if isinstance(module, nn.ConvTranspose2d):
            area //= module.stride[0] * module.stride[1]
        total += area * module.weight.numel()

    hooks = [
        m.register_forward_hook(count)
        for m in network.modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    with torch.inference_mode():
        network.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def test_the_network_has_the_papers_size() -> None:
    assert parameter_count(SpatiotemporalNetwork()) == pytest.approx(318_000, rel=0.01)


@pytest.mark.parametrize("side", RESOLUTIONS)
def test_the_network_has_the_papers_work_and_its_maps_the_frames_size(side: int) -> None:
    network, frame = SpatiotemporalNetwork().eval(), torch.zeros(1, 3, side, side)
    assert multiply_accumulates(network, frame, frame) == pytest.approx(MACS[side] * 1e6, rel=0.01)
    assert network(frame, frame).shape == (1, 1, side, side)


def test_a_student_sees_what_it_should() -> None:
    torch.manual_seed(0)
    frame, one, other = torch.rand(3, 2, 3, 32, 32)
    spatial, temporal = SpatialStudent(Trunk()).eval(), TemporalStudent(Trunk()).eval()
    assert torch.equal(spatial(frame, one), spatial(frame, other))
    assert not torch.equal(temporal(frame, one), temporal(frame, other))


def test_weight_transfer_carries_the_branches_over() -> None:
    trunk = Trunk()
    spatial, temporal, network = (
        SpatialStudent(trunk),
        TemporalStudent(trunk),
        SpatiotemporalNetwork(),
    )
    network.take(spatial, temporal)
    carried = {"trunk": spatial.trunk, "spatial": spatial.branch, "temporal": temporal.branch}
    for name, part in carried.items():
        for key, value in part.state_dict().items():
            assert torch.equal(network.get_submodule(name).state_dict()[key], value)


def test_the_encoder_takes_the_published_weights() -> None:
    encoder = EfficientNetLite0().eval()
    encoder.load_imagenet()
    with torch.inference_mode():
        features = encoder(torch.rand(1, 3, 144, 256) * 2 - 1)
    assert [f.shape[1] for f in features] == list(TAPS.values())
    assert [tuple(f.shape[2:]) for f in features] == [
        (72, 128),
        (36, 64),
        (18, 32),
        (9, 16),
        (5, 8),
    ]


def test_the_encoder_computes_what_the_published_network_does() -> None:
    encoder = EfficientNetLite0().eval()
    encoder.load_imagenet()
    with torch.inference_mode():
        features = encoder(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))
    # Read off the published implementation with the published weights, on this very input.
    means = [-0.56411, 1.60121, -0.10061, -0.27533, -0.07132]
    deviations = [6.84089, 7.29502, 6.07574, 3.41518, 1.471]
    assert [float(f.mean()) for f in features] == pytest.approx(means, abs=1e-3)
    assert [float(f.std()) for f in features] == pytest.approx(deviations, rel=1e-3)


def test_teachers_map_larger_frames() -> None:
    frame, other = torch.rand(2, 2, 3, 72, 128)
    spatial, temporal = SpatialTeacher().eval(), TemporalTeacher().eval()
    assert spatial(frame, other).shape == temporal(frame, other).shape == (2, 1, 36, 64)
    assert torch.equal(spatial(frame, other), spatial(frame, frame))
    assert not torch.equal(temporal(frame, other), temporal(frame, frame))
    assert parameter_count(spatial) > 5 * parameter_count(SpatiotemporalNetwork())
