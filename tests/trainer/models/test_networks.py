from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.conftest import Outcome
from trainer.models.complexity import multiply_accumulates
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


def test_multiply_accumulates_by_hand() -> None:
    count = multiply_accumulates
    assert count(nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.zeros(2, 4, 5, 7)) == 2 * 6 * 35 * 2 * 9
    assert count(nn.ConvTranspose2d(4, 6, 4, 2, 1), torch.zeros(1, 4, 5, 7)) == 4 * 35 * 6 * 16
    assert count(nn.Conv3d(3, 5, (2, 1, 1)), torch.zeros(1, 3, 4, 5, 7)) == 5 * 3 * 35 * 3 * 2
    assert count(nn.ConvTranspose3d(3, 5, 2, 2), torch.zeros(1, 3, 4, 5, 7)) == 3 * 140 * 5 * 8
    assert count(nn.Linear(7, 9), torch.zeros(2, 3, 7)) == 6 * 7 * 9
    assert count(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), torch.zeros(1, 1, 2, 2)) == 4


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
    network.copy_branches(spatial, temporal)
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


def test_the_command_describes_a_recipes_networks(command: Callable[..., Outcome]) -> None:
    outcome = command("train", "paper-32", "--describe")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    found = [
        (row[1], row[3], row[-6], row[-4])
        for row in rows
        if {"teachers", "students", "network"} & set(row[1:2]) and "x" in row
    ]
    assert found[0][:2] == ("teachers", "spatial")
    assert found[-1] == ("network", "spatiotemporal", "318,498", "0.029")
    assert len(found) == 5
    without = command("train", "paper-32", "--describe", "--set", "students.mu=0")
    assert "teachers" not in without.out


def test_training_needs_a_place_for_the_student(command: Callable[..., Outcome]) -> None:
    outcome = command("train", "demo")
    assert outcome.code == 2
    assert "missing --out" in outcome.err
