from __future__ import annotations

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.metrics.box_proxy import box_scores


def gaussian_map(x: float, y: float, sigma: float) -> np.ndarray:
    """Return a Gaussian on a map of 64 x 36."""
    columns, rows = np.arange(64) + 0.5, np.arange(36) + 0.5
    square = (columns[None, :] - x) ** 2 + (rows[:, None] - y) ** 2
    return np.exp(-square / 2 / sigma**2)


BOX = np.array(
    [400.0, 200.0, 40.0, 40.0]
)  # in a frame of 1280 x 720; its centre (420, 220) is (21, 11) on the map


def test_map_with_peak_in_box_scores_high() -> None:
    scores = box_scores(gaussian_map(21, 11, 2), BOX, 1280, 720)
    assert scores.auc > 0.99
    assert scores.z > scores.zblur > 3
    assert scores.hit == 1


def test_map_with_peak_elsewhere_scores_low() -> None:
    scores = box_scores(gaussian_map(50, 30, 2), BOX, 1280, 720)
    assert scores.auc < 0.6
    assert scores.z < 0
    assert scores.hit == 0


def test_auc_equals_fraction_of_ordered_pairs() -> None:
    saliency = np.random.default_rng(0).integers(0, 5, (9, 16)).astype(np.uint8)
    inside = saliency[2:5, 3:8].astype(int).reshape(-1, 1)
    pairs = (inside > saliency.ravel()) + 0.5 * (inside == saliency.ravel())
    scores = box_scores(saliency, np.array([3.2, 2.0, 4.1, 3.0]), 16, 9)
    assert scores.auc == pytest.approx(pairs.mean(), abs=1e-12)
    z = (inside.mean() - saliency.mean()) / saliency.std()
    assert scores.z == pytest.approx(z, rel=1e-6)


@pytest.mark.parametrize(("column", "hit"), [(393, 0), (394, 1), (445, 1), (446, 0)])
def test_small_box_grows_by_12_px(column: int, hit: float) -> None:
    saliency = np.zeros((720, 1280), np.float32)
    saliency[220, column] = 1
    assert box_scores(saliency, BOX, 1280, 720).hit == hit


@pytest.mark.parametrize(("column", "hit"), [(374, 0), (375, 1), (624, 1), (625, 0)])
def test_large_box_grows_by_a_quarter(column: int, hit: float) -> None:
    saliency = np.zeros((720, 1280), np.float32)
    saliency[220, column] = 1
    assert box_scores(saliency, np.array([400.0, 200, 200, 40]), 1280, 720).hit == hit


def test_constant_map_scores_as_chance() -> None:
    assert box_scores(np.full((36, 64), 0.1), BOX, 1280, 720) == (0.5, 0, 0, 0)
    assert box_scores(np.ones((36, 64)), np.array([0.0, 0, 9, 9]), 1280, 720).hit == 0


@pytest.mark.parametrize("box", [[np.nan, 1, 2, 3], [1300, 10, 20, 20], [-30, 10, 20, 20]])
def test_target_out_of_view_gives_nan(box: list[float]) -> None:
    assert np.isnan(box_scores(gaussian_map(21, 11, 2), np.array(box), 1280, 720)).all()


def test_box_over_the_edge_is_clipped() -> None:
    cut = box_scores(gaussian_map(21, 11, 2), np.array([-10.0, -10, 30, 30]), 1280, 720)
    assert cut[:3] == box_scores(gaussian_map(21, 11, 2), np.array([0.0, 0, 20, 20]), 1280, 720)[:3]


def test_wrong_shapes_are_rejected() -> None:
    with pytest.raises(InputError, match="expected \\(H, W\\) and \\(4,\\)"):
        box_scores(np.ones((1, 36, 64)), BOX, 1280, 720)
