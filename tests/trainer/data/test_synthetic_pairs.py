"""Pairs drawn from a pool: neighbours, lags, densities, alignment, and variation while training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.pools import all_clips
from trainer.data.augmentation import Variation
from trainer.data.gaze_model import gaze_density
from trainer.data.scene_pool import TICKS_PER_S, ScenePool, Shot
from trainer.data.synthetic_pairs import SyntheticPairs
from trainer.models.student import Pair, SkdSettings
from trainer.recipes.tables import WorldTable

PLAIN = WorldTable(width=96, height=64, augment=False)
SKD = SkdSettings(32, "previous", "density")


def pairs(pool: ScenePool, student: SkdSettings = SKD, world: WorldTable = PLAIN) -> SyntheticPairs:
    return SyntheticPairs(pool, world, student, 7, teachers=True)


def as_bytes(frame: torch.Tensor) -> np.ndarray:
    """Return the image (H, W, 3), BGR, that became the input of a network."""
    return ((frame + 1) * 127.5).round().to(torch.uint8).flip(0).permute(1, 2, 0).numpy()


def record_draws(samples: SyntheticPairs, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Shot, int, int]]:
    """Record each drawn shot with the positions of the earlier and the later frame."""
    draws: list[tuple[Shot, int, int]] = []
    draw_positions = samples._draw_positions

    def record(shot: Shot, rng: np.random.Generator) -> tuple[int, int]:
        draws.append((shot, *draw_positions(shot, rng)))
        return draws[-1][1:]

    monkeypatch.setattr(samples, "_draw_positions", record)
    return draws


@pytest.mark.parametrize("pair", ["previous", "next"])
def test_frame_has_its_own_density_and_the_right_neighbour(
    small_pool: ScenePool, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = pairs(small_pool, SkdSettings(32, pair, "density"))
    draws = record_draws(samples, monkeypatch)
    mirrorings = set()
    for index in range(12):
        sample = samples[index]
        assert sample["frame"].shape == sample["other"].shape == (3, 32, 32)
        shot, earlier, later = draws[-1]
        position, other = (later, earlier) if pair == "previous" else (earlier, later)
        mirrored = not (as_bytes(sample["large_frame"]) == shot.frames[position]).all()
        mirrorings.add(mirrored)
        flip = slice(None, None, -1) if mirrored else slice(None)
        assert (as_bytes(sample["large_frame"]) == shot.frames[position][:, flip]).all()
        assert (as_bytes(sample["large_other"]) == shot.frames[other][:, flip]).all()
        density = gaze_density(shot, shot.index.ticks[position], 32, 32)[:, flip]
        np.testing.assert_allclose(sample["density"][0], density, atol=1e-6)
    assert mirrorings == {False, True}


def test_lags_are_those_of_fast_and_slow_cameras(
    small_pool: ScenePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lag_s, low, high in ((0.0, 1, 6), (0.3, 12, 24)):
        samples = pairs(small_pool, replace(SKD, lag_s=lag_s))
        draws = record_draws(samples, monkeypatch)
        for index in range(120):
            samples[index]
        gaps = np.array([shot.index.ticks[later] - shot.index.ticks[at] for shot, at, later in draws])
        assert ((low - 3 <= gaps) & (gaps <= high + 3)).mean() > 0.75
        assert (gaps > 24).any(), "2 frames per second"
        assert gaps.max() <= 0.5 * TICKS_PER_S
        assert len(set(gaps.tolist())) > 6


def test_twins_are_drawn_as_often_as_the_recipe_says(small_pool: ScenePool) -> None:
    rng = np.random.default_rng(0)
    shares = {
        share: np.mean([small_pool.draw(rng, share).index.twins for _ in range(300)]) for share in (0, 0.6, 1)
    }
    assert shares == {0: 0, 0.6: pytest.approx(0.6, abs=0.1), 1: 1}


def test_aligned_neighbour_differs_less_than_an_unaligned_one(small_pool: ScenePool) -> None:
    gaps = {}
    for align in (False, True):
        samples = pairs(small_pool, SkdSettings(64, "previous", "density", 0.3, align))
        drawn = [samples[index] for index in range(24)]
        gaps[align] = float(np.mean([(s["frame"] - s["other"]).abs().mean() for s in drawn]))
    assert gaps[True] < 0.7 * gaps[False]


def test_sample_depends_on_its_index_alone(small_pool: ScenePool) -> None:
    world = PLAIN.model_copy(update={"augment": True})
    first, second = pairs(small_pool, world=world), pairs(small_pool, world=world)
    second[4]
    torch.testing.assert_close(first[9], second[9], rtol=0, atol=0)
    assert not torch.equal(first[8]["frame"], first[9]["frame"])


def test_targets_and_density_follow_the_crop(small_pool: ScenePool) -> None:
    shot = all_clips(small_pool)[0]
    tick = shot.index.ticks[-1]
    target = max(shot.targets(tick), key=lambda target: target.visible_fraction)
    left = min(max(int(target.box[0] + target.box[2] / 2), 1), 40)
    crop = Variation(shot, left, 4, 50, 40)
    (image,) = crop.images([15])
    assert (image == shot.frames[15, 4:44, left : left + 50]).all()
    assert crop.targets(tick)
    for moved in crop.targets(tick):
        (original,) = (t for t in shot.targets(tick) if t.target_id == moved.target_id)
        area = moved.box[2] * moved.box[3] / (original.box[2] * original.box[3])
        assert moved.visible_fraction == pytest.approx(original.visible_fraction * area)
        assert moved.box[0] + moved.box[2] <= 50 + 1e-9
        assert moved.box[0] + left >= original.box[0] - 1e-9
    whole = Variation.none(shot)
    assert whole.targets(tick) == shot.targets(tick)
    density = gaze_density(crop, tick, 50, 40)
    assert density.sum() == pytest.approx(1, abs=1e-3)


def test_target_at_the_edge_of_a_crop_counts_by_the_part_inside(small_pool: ScenePool) -> None:
    shot = all_clips(small_pool)[0]
    target = shot.targets(shot.index.ticks[-1])[0]
    crop = Variation(shot, 10, 10, 20, 20)
    inside = crop._crop(replace(target, box=(5.0, 12.0, 10.0, 4.0), visible_fraction=0.8))
    assert inside is not None
    assert inside.box == (0.0, 2.0, 5.0, 4.0)
    assert inside.visible_fraction == pytest.approx(0.4)
    assert crop._crop(replace(target, box=(0.0, 12.0, 10.0, 4.0))) is None


def test_variations_change_crop_colours_and_noise_the_same_way_each_time(small_pool: ScenePool) -> None:
    shot = all_clips(small_pool)[0]
    drawn = [Variation.draw(shot, np.random.default_rng(seed)) for seed in range(40)]
    assert 10 < sum(variation.width < shot.width for variation in drawn) < 30
    assert 10 < sum(variation.colours is not None for variation in drawn) < 30
    assert 10 < sum(variation.noise > 0 for variation in drawn) < 30
    for variation in drawn:
        first, second = variation.images([0, 1]), variation.images([0, 1])
        assert first[0].shape == (variation.height, variation.width, 3)
        for image, again in zip(first, second, strict=True):
            assert (image == again).all()
