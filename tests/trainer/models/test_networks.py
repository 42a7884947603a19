"""Networks of SKD, their teachers and the encoder: sizes, work, weights and description."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conftest import Outcome
from trainer.models.complexity import multiply_accumulates
from trainer.models.efficientnet_lite import TAPS, EfficientNetLite0
from trainer.models.skd import (
    DIFFERENCE_GAIN,
    RESOLUTIONS,
    SpatialStudent,
    SpatiotemporalNetwork,
    TemporalStudent,
    Trunk,
    frame_differences,
)
from trainer.models.student import parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher

# Multiply-accumulates per pair of frames, in millions, computed from the published layers.
MACS = {32: 29, 64: 116, 96: 261, 128: 464, 256: 1856}


def test_multiply_accumulates_match_values_by_hand() -> None:
    count = multiply_accumulates
    assert count(nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.zeros(2, 4, 5, 7)) == 2 * 6 * 35 * 2 * 9
    assert count(nn.ConvTranspose2d(4, 6, 4, 2, 1), torch.zeros(1, 4, 5, 7)) == 4 * 35 * 6 * 16
    assert count(nn.Conv3d(3, 5, (2, 1, 1)), torch.zeros(1, 3, 4, 5, 7)) == 5 * 3 * 35 * 3 * 2
    assert count(nn.ConvTranspose3d(3, 5, 2, 2), torch.zeros(1, 3, 4, 5, 7)) == 3 * 140 * 5 * 8
    assert count(nn.Linear(7, 9), torch.zeros(2, 3, 7)) == 6 * 7 * 9
    assert count(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), torch.zeros(1, 1, 2, 2)) == 4


def test_network_has_the_size_of_the_paper() -> None:
    assert parameter_count(SpatiotemporalNetwork()) == pytest.approx(318_000, rel=0.01)


@pytest.mark.parametrize("side", RESOLUTIONS)
def test_network_has_the_work_of_the_paper_and_maps_of_the_frame_size(side: int) -> None:
    network, frame = SpatiotemporalNetwork().eval(), torch.zeros(1, 3, side, side)
    assert multiply_accumulates(network, frame, frame) == pytest.approx(MACS[side] * 1e6, rel=0.01)
    assert network(frame, frame).shape == (1, 1, side, side)


def test_spatial_student_ignores_the_other_frame_and_temporal_student_uses_it() -> None:
    torch.manual_seed(0)
    frame, first_other, second_other = torch.rand(3, 2, 3, 32, 32)
    spatial, temporal = SpatialStudent(Trunk()).eval(), TemporalStudent(Trunk()).eval()
    assert torch.equal(spatial(frame, first_other), spatial(frame, second_other))
    assert not torch.equal(temporal(frame, first_other), temporal(frame, second_other))


def test_levels_of_the_frame_difference_have_mean_and_largest_difference_of_their_cells() -> None:
    frame, other = torch.rand(2, 2, 3, 32, 48)
    difference = DIFFERENCE_GAIN * (frame - other).abs()
    for level, stride in zip(frame_differences(frame, other, levels=3), (4, 8, 16), strict=True):
        expected = [F.avg_pool2d(difference, stride), F.max_pool2d(difference, stride)]
        torch.testing.assert_close(level, torch.cat(expected, dim=1))


def test_copy_branches_copies_the_weights_of_both_students() -> None:
    trunk = Trunk()
    spatial, temporal, network = (
        SpatialStudent(trunk),
        TemporalStudent(trunk),
        SpatiotemporalNetwork(),
    )
    network.copy_branches(spatial, temporal)
    copied = {"trunk": spatial.trunk, "spatial": spatial.branch, "temporal": temporal.branch}
    for name, part in copied.items():
        for key, value in part.state_dict().items():
            assert torch.equal(network.get_submodule(name).state_dict()[key], value)


def test_encoder_loads_the_published_weights() -> None:
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


def test_encoder_computes_the_features_of_the_published_network() -> None:
    encoder = EfficientNetLite0().eval()
    encoder.load_imagenet()
    with torch.inference_mode():
        features = encoder(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))
    # Values of the published implementation with the published weights on the same input.
    means = [-0.56411, 1.60121, -0.10061, -0.27533, -0.07132]
    deviations = [6.84089, 7.29502, 6.07574, 3.41518, 1.471]
    assert [float(f.mean()) for f in features] == pytest.approx(means, abs=1e-3)
    assert [float(f.std()) for f in features] == pytest.approx(deviations, rel=1e-3)


def test_teachers_return_maps_of_larger_frames() -> None:
    frame, other = torch.rand(2, 2, 3, 72, 128)
    spatial, temporal = SpatialTeacher().eval(), TemporalTeacher().eval()
    assert spatial(frame, other).shape == temporal(frame, other).shape == (2, 1, 36, 64)
    assert torch.equal(spatial(frame, other), spatial(frame, frame))
    assert not torch.equal(temporal(frame, other), temporal(frame, frame))
    assert parameter_count(spatial) > 5 * parameter_count(SpatiotemporalNetwork())


def test_command_describes_the_networks_of_a_recipe(command: Callable[..., Outcome]) -> None:
    outcome = command("train", "paper-32", "--describe")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    described = [
        (row[1], row[3], row[-6], row[-4])
        for row in rows
        if {"teachers", "students", "network"} & set(row[1:2]) and "x" in row
    ]
    assert described[0][:2] == ("teachers", "spatial")
    assert described[-1] == ("network", "spatiotemporal", "318,498", "0.029")
    assert len(described) == 5
    without = command("train", "paper-32", "--describe", "--set", "students.mu=0")
    assert "teachers" not in without.out


def test_training_without_out_is_rejected(command: Callable[..., Outcome]) -> None:
    outcome = command("train", "demo")
    assert outcome.code == 2
    assert "missing --out" in outcome.err
