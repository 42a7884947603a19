"""Soft labels of a pool: the teachers' maps, computed once, and what samples make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.augmentation import Variation
from trainer.data.pool_rendering import open_pool
from trainer.data.scene_pool import PoolSettings, ScenePool, simulation_digest
from trainer.data.soft_labels import SoftLabels, label_pool
from trainer.data.synthetic_pairs import SyntheticPairs
from trainer.models.student import SkdSettings
from trainer.recipes.loader import WorldTable

STUDENT = SkdSettings(32, "previous", "log_density", 0.3, align=True)
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    settings = PoolSettings(3, WIDTH, HEIGHT, 16, 10.0, simulation_digest())
    return open_pool(settings, 12, tmp_path_factory.mktemp("pool"))


def brightness(frame: Tensor, other: Tensor) -> Tensor:
    """Return the brightness of both frames at half the size, as a teacher would return its maps."""
    images = torch.stack([frame, other], dim=1).mean(dim=2)
    return torch.nn.functional.avg_pool2d(images, 2)


@pytest.fixture(scope="module")
def labels(pool: ScenePool, tmp_path_factory: pytest.TempPathFactory) -> SoftLabels:
    return label_pool(pool, STUDENT, brightness, tmp_path_factory.mktemp("labels"), workers=0)


def grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what `brightness` returns for an image."""
    height, width = image.shape[:2]
    cells = (image / 127.5 - 1).reshape(height // 2, 2, width // 2, 2, 3)
    return np.asarray(cells.mean(axis=(1, 3, 4)))


def test_each_labelled_frame_has_the_maps_of_its_own_frame(pool: ScenePool, labels: SoftLabels) -> None:
    for shard in pool.shards:
        for shot in pool.shots(shard):
            for position in shot.index.labelled:
                maps = labels.maps(shot, position)
                assert maps.shape == (2, HEIGHT // 2, WIDTH // 2)
                np.testing.assert_allclose(maps[0], grey(shot.frames[position]), atol=1e-3)


def test_neighbour_lies_at_the_lag_of_the_student(pool: ScenePool, tmp_path: Path) -> None:
    labels = label_pool(pool, replace(STUDENT, align=False), brightness, tmp_path, workers=0)
    clip = next(shot for shot in pool.shots(0) if len(shot.frames) == 16)  # 10 frames per second
    np.testing.assert_allclose(labels.maps(clip, 7)[1], grey(clip.frames[4]), atol=1e-3)
    np.testing.assert_allclose(labels.maps(clip, 1)[1], grey(clip.frames[0]), atol=1e-3)
    # The first frame has none before it.
    np.testing.assert_allclose(labels.maps(clip, 0)[1], grey(clip.frames[3]), atol=1e-3)


def test_neighbour_of_a_student_paired_with_the_next_frame_is_later(pool: ScenePool, tmp_path: Path) -> None:
    labels = label_pool(pool, SkdSettings(32, "next", "log_density"), brightness, tmp_path, workers=0)
    clip = next(shot for shot in pool.shots(0) if len(shot.frames) == 16)
    np.testing.assert_allclose(labels.maps(clip, 7)[1], grey(clip.frames[8]), atol=1e-3)
    np.testing.assert_allclose(labels.maps(clip, 15)[1], grey(clip.frames[14]), atol=1e-3)


def test_only_missing_shards_are_labelled_and_give_the_same_maps(pool: ScenePool, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    def label() -> None:
        label_pool(pool, STUDENT, brightness, tmp_path, lambda *at: progress.append(at), workers=1)

    label()
    assert progress == [(0, 2), (1, 2), (2, 2)]
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.npy")}
    (tmp_path / "shard-000001.npy").unlink()
    label()
    assert progress[3:] == [(0, 1), (1, 1)]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_soft_labels_of_an_empty_scene_are_its_wide_density(labels: SoftLabels, tmp_path: Path) -> None:
    settings = PoolSettings(3, WIDTH, HEIGHT, 16, 10.0, simulation_digest())
    pool = open_pool(settings, 1, tmp_path, empty_scenes=1)
    samples = SyntheticPairs(pool, WorldTable(width=WIDTH, height=HEIGHT, empty=1), STUDENT, 1, labels=labels)
    for index in range(4):
        sample = samples[index]
        wide = sample["density"] / sample["density"].max()
        assert wide.mean() > 0.25, "no cell stands out"
        torch.testing.assert_close(sample["soft_spatial"], wide)
        torch.testing.assert_close(sample["soft_temporal"], wide)


def test_sample_has_the_crop_of_its_frames_label(
    pool: ScenePool, labels: SoftLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = SyntheticPairs(pool, WorldTable(width=WIDTH, height=HEIGHT), STUDENT, 1, labels=labels)
    plain = Variation.draw

    def crop_only(*arguments: object) -> Variation:
        return replace(plain(*arguments), colours=None, noise=0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(Variation, "draw", crop_only)
    for index in range(12):
        sample = samples[index]
        assert "large_frame" not in sample
        expected = sample["frame"].mean(dim=0)
        # Half a cell of the label's grid is the most that its crop may be off.
        error = (sample["soft_spatial"][0] - expected).abs()
        assert sample["soft_spatial"].shape == sample["density"].shape
        assert float(error.median()) < 0.1
        assert np.corrcoef(sample["soft_spatial"].flatten(), expected.flatten())[0, 1] > 0.9
