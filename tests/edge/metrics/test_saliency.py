from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import InputError
from edge.metrics.saliency import (
    auc,
    auc_borji,
    auc_judd,
    cc,
    ig,
    kld,
    max_error,
    nss,
    other_fixations,
    sauc,
    sim,
)

Array = np.ndarray[Any, Any]
SEEDS = st.integers(0, 10_000)
KINDS = ["bool", "uint8", "int16", "int64", "float16", "float32", "float64"]


def scene(seed: int, shape: tuple[int, int] = (18, 32), fixations: int = 12) -> tuple[Array, Array]:
    """Return a map with ties and zeros, and fixations of which some are on the same pixel."""
    rng = np.random.default_rng(seed)
    saliency = np.maximum(0, np.round(rng.normal(size=shape), 1)) * 3
    points = rng.integers(0, shape, (fixations, 2))
    return saliency, np.concatenate([points, points[:3]])


def auc_of_pairs(positives: Array, negatives: Array) -> float:
    """Return the AUC by its definition, over every pair."""
    p, n = positives.reshape(-1, 1), negatives.reshape(1, -1)
    return float(((p > n) + 0.5 * (p == n)).mean())


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(0, 10))
def test_cc_equals_numpy_and_ignores_scale_and_offset(seed: int, scale: float, offset: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 9, 16))
    assert cc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert cc(a * scale + offset, b) == pytest.approx(cc(a, b), abs=1e-9)


def test_cc_of_a_constant_map_is_zero() -> None:
    assert cc(np.ones((4, 4)), np.eye(4)) == 0


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_kld_is_never_negative_and_ignores_scale(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).random((2, 9, 16))
    assert kld(a, a) == pytest.approx(0, abs=1e-12)
    assert kld(a, b) > 0
    assert kld(a * scale, b) == pytest.approx(kld(a, b), rel=1e-9)


def test_kld_equals_manual_result() -> None:
    assert kld(np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])) == pytest.approx(
        0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    )


def test_max_error_propagates_nan() -> None:
    assert max_error(np.array([[1.0, 2.0]]), np.array([[1.0, 2.5]])) == 0.5
    assert np.isnan(max_error(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])))


# ----- AUC: manual results and properties


def test_auc_equals_manual_result() -> None:
    assert auc(np.array([3, 1]), np.array([0, 1, 2, 3])) == (3.5 + 1.5) / 8
    assert math.isnan(auc(np.array([]), np.array([1.0])))
    assert math.isnan(auc(np.array([1.0]), np.array([])))


@given(SEEDS, st.sampled_from(KINDS), st.integers(-300, 300), st.floats(-40, 40))
def test_auc_equals_fraction_of_pairs_for_every_dtype(
    seed: int, kind: str, offset: int, power: float
) -> None:
    rng = np.random.default_rng(seed)
    spread = np.round(rng.normal(size=400) * rng.choice([1, 0, 1e-4], 400), 4)
    with np.errstate(over="ignore", invalid="ignore"):
        values = (spread * 2.0**power + offset).astype(kind)
    values = values if kind[0] != "f" else np.concatenate([values, [0.0, -0.0, np.inf, -np.inf]]).astype(kind)
    positives = rng.choice(values, 20)
    assert auc(positives, values) == pytest.approx(auc_of_pairs(positives, values), abs=1e-12)


def test_auc_is_exact_at_limits_of_dtypes() -> None:
    for kind in ("int64", "int8", "uint32"):
        ends = np.iinfo(kind)
        values = np.array([ends.min, ends.min + 1, 0, ends.max - 1, ends.max], kind)
        for positive in values:
            assert auc(positive[None], values) == auc_of_pairs(positive[None], values)
    huge = np.array([-1.7e308, -5e-324, -0.0, 0.0, 5e-324, 1.7e308])
    for number in huge:
        assert auc(number[None], huge) == auc_of_pairs(number[None], huge)


def test_auc_is_exact_for_many_close_values() -> None:
    rng = np.random.default_rng(0)
    pixels = (1 + rng.integers(0, 3000, 200_000) * 2**-23).astype(np.float32)
    pixels[::7] = rng.random(pixels[::7].size) * 1e-6
    positives = rng.choice(pixels, 60)
    assert auc(positives, pixels) == pytest.approx(auc_of_pairs(positives, pixels), abs=1e-12)


@given(SEEDS)
def test_auc_ignores_monotonic_transforms(seed: int) -> None:
    saliency, points = scene(seed)
    for same in (saliency * 7, saliency**3, np.log1p(saliency), np.exp(saliency), saliency - 5):
        assert auc_judd(same, points) == auc_judd(saliency, points)
        assert sauc(same, points, points[::-1] // 2) == sauc(saliency, points, points[::-1] // 2)
    assert auc_judd(-saliency, points) == pytest.approx(1 - auc_judd(saliency, points))


@given(SEEDS)
def test_auc_of_perfect_and_of_constant_map(seed: int) -> None:
    _, points = scene(seed)
    perfect = np.zeros((18, 32))
    perfect[tuple(points.T)] = 1
    assert auc_judd(perfect, points, unfixated=True) == 1
    assert auc_judd(perfect, points) > 0.98
    assert auc_judd(1 - perfect, points, unfixated=True) == 0
    flat = np.full((18, 32), 0.1)
    assert auc_judd(flat, points) == auc_borji(flat, points) == sauc(flat, points, points) == 0.5


def test_auc_borji_depends_on_seed_and_approaches_auc_judd() -> None:
    saliency, points = scene(1)
    assert auc_borji(saliency, points, seed=3) == auc_borji(saliency, points, seed=3)
    assert auc_borji(saliency, points, seed=3) != auc_borji(saliency, points, seed=4)
    assert auc_borji(saliency, points, splits=5000) == pytest.approx(auc_judd(saliency, points), abs=0.01)


# ----- Other metrics: manual results and properties


def test_nss_equals_manual_result() -> None:
    saliency = np.array([[0.0, 0.0], [0.0, 4.0]])
    assert nss(saliency, np.array([[1, 1], [1, 1], [0, 0]])) == pytest.approx((3 + 3 - 1) / 3 / math.sqrt(3))
    assert nss(saliency, np.array([[1, 1], [1, 1], [0, 0]]), "matlab") == pytest.approx((3 - 1) / 2 / 2)


def test_sim_equals_manual_result() -> None:
    a, b = np.array([[1.0, 3.0]]), np.array([[3.0, 1.0]])
    assert sim(a, b) == 0.5
    assert sim(a, b, "matlab") == 0
    assert sim(a, np.array([[1.0, 1.0]])) == 0.75


def test_ig_equals_manual_result() -> None:
    saliency, baseline = np.array([[1.0, 7.0]]), np.array([[1.0, 1.0]])
    assert ig(saliency, baseline, np.array([[0, 1]])) == pytest.approx(math.log2(7 / 8 / 0.5))
    assert ig(saliency, baseline, np.array([[0, 0], [0, 1]])) == pytest.approx(
        (math.log2(1 / 4) + math.log2(7 / 4)) / 2
    )
    assert ig(np.array([[0.0, 1.0]]), baseline, np.array([[0, 0]])) == -math.inf


@given(SEEDS, st.floats(0.01, 1000))
def test_metrics_ignore_scale(seed: int, scale: float) -> None:
    (a, points), (b, _) = scene(seed), scene(seed + 1)
    assert nss(a * scale, points) == pytest.approx(nss(a, points))
    assert sim(a * scale, b) == pytest.approx(sim(a, b))
    assert 0 <= sim(a, b) <= sim(a, a) == pytest.approx(1)
    assert ig((a + 1) * scale, b + 1, points) == pytest.approx(ig(a + 1, b + 1, points), abs=1e-9)
    assert ig(a + 1, a + 1, points) == 0


# ----- Undefined results and invalid input


METRICS: dict[str, Callable[..., float]] = {
    "judd": auc_judd,
    "borji": auc_borji,
    "sauc": lambda s, f, *c: sauc(s, f, np.array([[0, 0], [3, 3]]), *c),
    "nss": nss,
    "ig": lambda s, f, *c: ig(s, np.eye(18, 32) + 1, f, *c),
}


@pytest.mark.parametrize("convention", ["pysaliency", "matlab"])
@pytest.mark.parametrize("name", METRICS)
def test_frame_without_fixations_gives_nan(name: str, convention: str) -> None:
    for none in (np.empty((0, 2), int), np.array([])):
        assert math.isnan(METRICS[name](scene(0)[0], none, convention))


@pytest.mark.parametrize("name", METRICS)
def test_constant_map_gives_nan_in_matlab_convention(name: str) -> None:
    assert math.isnan(METRICS[name](np.full((18, 32), 0.1), scene(0)[1], "matlab"))


@pytest.mark.parametrize("shade", [0.0, 0.1, 1.0])
def test_constant_map_scores_as_chance(shade: float) -> None:
    flat, (saliency, points) = np.full((18, 32), shade), scene(0)
    assert nss(flat, points) == 0
    assert cc(flat, saliency) == cc(saliency, flat) == 0
    assert ig(flat, np.ones_like(flat), points) == pytest.approx(0, abs=1e-12)
    assert sim(flat, np.ones_like(flat)) == pytest.approx(1)
    assert kld(flat, np.ones_like(flat)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(cc(flat, saliency, "matlab"))
    assert math.isnan(sim(saliency, flat, "matlab"))


def test_auc_without_negatives_gives_nan() -> None:
    saliency, points = scene(0)
    every = np.argwhere(np.ones((2, 2)))
    assert math.isnan(sauc(saliency, points, np.empty((0, 2), int)))
    assert math.isnan(auc_judd(saliency[:2, :2], every, unfixated=True))
    assert math.isnan(auc_judd(saliency[:2, :2], every, "matlab"))


def test_invalid_input_is_rejected() -> None:
    saliency, points = scene(0)
    halves: Any = points + 0.5
    with pytest.raises(InputError, match=r"shape \(1, 18, 32\), expected \(H, W\)"):
        auc_judd(saliency[None], points)
    with pytest.raises(InputError, match=r"float64 of shape .* expected integers"):
        nss(saliency, halves)
    with pytest.raises(InputError, match=r"reach from \[0, 0\] to \[3, 32\], .* inside a map of \(18, 32\)"):
        auc_judd(saliency, np.array([[0, 0], [3, 32]]))
    with pytest.raises(InputError, match="inside a map"):
        auc_judd(saliency, np.array([[-1, 0]]))
    with pytest.raises(InputError, match="expected one"):
        sim(saliency, saliency.T)
    wrong: Any = "Matlab"
    for score in (auc_judd, auc_borji, nss):
        with pytest.raises(InputError, match="no convention 'Matlab', expected 'pysaliency' or 'matlab'"):
            score(saliency, points, wrong)
    for sign in (1, -1):
        spoilt = saliency * sign
        spoilt[4, 4] = np.copysign(np.nan, sign)
        with pytest.raises(InputError, match="NaN"):
            auc_judd(spoilt, points)
    with pytest.raises(InputError, match="complex128, expected integers or floats"):
        auc_judd(saliency.astype(complex), points)
    assert math.isnan(kld(spoilt, saliency))


# ----- Matlab's convention, against a direct translation of its code


def trapezoid_area(tp: list[float], fp: list[float]) -> float:
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(fp, fp[1:], tp, tp[1:], strict=False))


def reference_judd(saliency: Array, points: Array, seed: int) -> float:
    jittered = saliency + np.random.default_rng(seed).random(saliency.shape) / 10_000_000
    stretched = (jittered - jittered.min()) / (jittered.max() - jittered.min())
    fixated = np.zeros(saliency.shape, bool)
    fixated[tuple(points.T)] = True
    thresholds = sorted(stretched[fixated], reverse=True)
    tp, fp = [0.0], [0.0]
    for i, threshold in enumerate(thresholds, 1):
        above = int((stretched >= threshold).sum())
        tp.append(i / len(thresholds))
        fp.append((above - i) / (saliency.size - len(thresholds)))
    return trapezoid_area([*tp, 1.0], [*fp, 1.0])


def reference_splits(saliency: Array, points: Array, draws: list[Array]) -> float:
    stretched = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    fixated = np.zeros(saliency.shape, bool)
    fixated[tuple(points.T)] = True
    found, areas = stretched[fixated], []
    for places in draws:
        drawn = stretched.ravel()[places]
        top = max(found.max(), drawn.max())
        thresholds = [i * 0.1 for i in range(11) if i * 0.1 <= top][::-1]
        tp = [0.0, *(float((found >= t).mean()) for t in thresholds), 1.0]
        fp = [0.0, *(float((drawn >= t).mean()) for t in thresholds), 1.0]
        areas.append(trapezoid_area(tp, fp))
    return float(np.mean(areas))


@given(SEEDS)
def test_auc_judd_equals_matlab_reference(seed: int) -> None:
    saliency, points = scene(seed)
    assert auc_judd(saliency, points, "matlab", seed=seed) == pytest.approx(
        reference_judd(saliency, points, seed)
    )


@pytest.mark.parametrize("seed", range(5))
def test_auc_borji_equals_matlab_reference(seed: int) -> None:
    saliency, points = scene(seed)
    count = len(np.unique(points, axis=0))
    draws = np.random.default_rng(seed).integers(saliency.size, size=(100, count))
    assert auc_borji(saliency, points, "matlab", seed=seed) == pytest.approx(
        reference_splits(saliency, points, list(draws))
    )


@pytest.mark.parametrize("others", [3, 40])
def test_sauc_equals_matlab_reference(others: int) -> None:
    (saliency, points), (_, other_points) = scene(1), scene(2, fixations=others)
    places = np.unique(other_points[:, 0] * 32 + other_points[:, 1])
    count = min(len(np.unique(points, axis=0)), len(places))
    rng = np.random.default_rng(7)
    draws = [rng.permutation(places)[:count] for _ in range(100)]
    assert sauc(saliency, points, other_points, "matlab", seed=7) == pytest.approx(
        reference_splits(saliency, points, draws)
    )


@given(SEEDS)
def test_other_metrics_equal_matlab_reference(seed: int) -> None:
    (a, points), (b, _) = scene(seed), scene(seed + 1)
    fixated = np.zeros(a.shape, bool)
    fixated[tuple(points.T)] = True
    assert nss(a, points, "matlab") == pytest.approx(((a - a.mean()) / a.std(ddof=1))[fixated].mean())
    assert cc(a, b, "matlab") == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    p, q = (m / m.sum() for m in ((m - m.min()) / (m.max() - m.min()) for m in (a, b + 1)))
    assert sim(a, b + 1, "matlab") == pytest.approx(np.minimum(p, q).sum())
    eps = 2.2204e-16
    gain = (np.log2(eps + p[fixated]) - np.log2(eps + q[fixated])).mean()
    assert ig(a, b + 1, points, "matlab") == pytest.approx(gain)


# ----- Fixations of other images


def test_other_fixations_are_scaled_and_exclude_the_image() -> None:
    fixations = [np.array([[0, 0], [8, 15]]), np.array([[3, 3]]), np.empty((0, 2), int), np.array([[1, 2]])]
    shapes = [(9, 16), (9, 16), (9, 16), (18, 32)]
    assert other_fixations(fixations, shapes, 1).tolist() == [[0, 0], [8, 15], [0, 1]]
    assert other_fixations(fixations, shapes, 3).tolist() == [[0, 0], [16, 30], [6, 6]]
    assert other_fixations(fixations[:1], shapes[:1], 0).shape == (0, 2)


def test_other_fixations_use_random_images() -> None:
    fixations = [np.array([[i, i]]) for i in range(30)]
    ten = other_fixations(fixations, [(30, 30)] * 30, 4, images=10, seed=1)
    assert len(np.unique(ten, axis=0)) == 10
    assert [4, 4] not in ten.tolist()
    assert (ten == other_fixations(fixations, [(30, 30)] * 30, 4, images=10, seed=1)).all()


# ----- pysaliency


SHAPES = [(18, 32), (18, 32), (36, 48), (18, 32)]


@pytest.fixture(scope="module")
def pysaliency() -> Any:
    why = "pysaliency is not installed: pip install '.[oracle]'"
    return pytest.importorskip("pysaliency", reason=why)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Array, Array]]:
    """Return the maps and fixations of four images, the last without fixations."""
    random_scenes = [scene(index, shape, 30 + index) for index, shape in enumerate(SHAPES)]
    return [*random_scenes[:3], (random_scenes[3][0], np.empty((0, 2), int))]


@pytest.fixture(scope="module")
def pysaliency_data(pysaliency: Any, scenes: list[tuple[Array, Array]]) -> Any:
    """Return pysaliency's model, stimuli and fixations of the scenes."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    stimuli = pysaliency.Stimuli(images)
    maps = {stimuli.stimulus_ids[index]: saliency for index, (saliency, _) in enumerate(scenes)}

    class Maps(pysaliency.SaliencyMapModel):  # type: ignore[misc]
        def _saliency_map(self, stimulus: Array) -> Array:
            return maps[pysaliency.datasets.get_image_hash(stimulus)]

    points = np.concatenate([points for _, points in scenes])
    numbers = np.repeat(np.arange(len(scenes)), [len(points) for _, points in scenes])
    fixations = pysaliency.Fixations.create_without_history(x=points[:, 1], y=points[:, 0], n=numbers)
    return Maps(), stimuli, fixations


@pytest.mark.parametrize("negatives", ["uniform", "unfixated", "shuffled"])
def test_auc_equals_pysaliency(
    pysaliency_data: Any, scenes: list[tuple[Array, Array]], negatives: str
) -> None:
    model, stimuli, fixations = pysaliency_data
    theirs = model.AUCs(stimuli, fixations, nonfixations=negatives)
    for index, (saliency, points) in enumerate(scenes[:3]):
        others = other_fixations([points for _, points in scenes], SHAPES, index)
        if negatives == "shuffled":
            ours = sauc(saliency, points, others)
        else:
            ours = auc_judd(saliency, points, unfixated=negatives == "unfixated")
        assert ours == pytest.approx(theirs[fixations.n == index].mean(), abs=1e-9)


def test_nss_equals_pysaliency(pysaliency_data: Any, scenes: list[tuple[Array, Array]]) -> None:
    model, stimuli, fixations = pysaliency_data
    theirs = model.NSSs(stimuli, fixations)
    for index, (saliency, points) in enumerate(scenes[:3]):
        assert nss(saliency, points) == pytest.approx(theirs[fixations.n == index].mean(), abs=1e-9)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_map_similarities_equal_pysaliency(pysaliency: Any, floor: float) -> None:
    for seed in range(5):
        a, b = scene(seed)[0] + floor, scene(seed + 50)[0]
        for x, y in ((a, b), (b, a), (a, np.zeros_like(a)), (a - 1, b), (a, a)):
            assert sim(x, y) == pytest.approx(pysaliency.metrics.SIM(x, y), abs=1e-9)
            with np.errstate(divide="ignore"):  # log 0
                assert kld(x, y) == pytest.approx(pysaliency.metrics.MIT_KLDiv(x, y), abs=1e-9)
        assert cc(a, b) == pytest.approx(pysaliency.metrics.CC(a, b), abs=1e-9)


def test_ig_equals_pysaliency(
    pysaliency: Any, pysaliency_data: Any, scenes: list[tuple[Array, Array]]
) -> None:
    model, stimuli, fixations = pysaliency_data
    density = pysaliency.models.SaliencyMapNormalizingModel(model, minimum_value=0.1)
    theirs = density.information_gains(stimuli, fixations, pysaliency.UniformModel())
    for index, (saliency, points) in enumerate(scenes[:3]):
        ours = ig(saliency + 0.1, np.ones_like(saliency), points)
        assert ours == pytest.approx(theirs[fixations.n == index].mean(), abs=1e-9)
