"""Saliency metrics: agreement of a map with fixations, and similarity of two maps.

Maps are (H, W), non-negative, in any unit. Fixations are an (N, 2) integer array of (row, column); duplicates
are allowed. Definitions are those of Bylinskii et al., "What do different evaluation metrics tell us about
saliency models?", TPAMI 2019 (arXiv 1604.03605), section 3, in two conventions:

- `pysaliency`, the default: exact. Ties count one half, every fixation counts, and a constant map predicts
  nothing (AUC 0.5, NSS 0, CC 0; for SIM, KLD and IG it is the uniform density).
- `matlab`: the code of the MIT benchmark (github.com/cvzoya/saliency, code_forMetrics), which the evaluation
  of DHF1K follows. Ties are broken by random noise, fixations on the same pixel count once, random draws
  depend on `seed`, and a constant map gives NaN.

In both conventions a frame without fixations gives NaN. Leave it out of a mean: it is neither good nor bad.
Invalid input raises `InputError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError

Convention = Literal["pysaliency", "matlab"]
Values = NDArray[Any]
"""Booleans, integers or floats."""
Fixations = NDArray[np.integer]
"""(N, 2), row and column in pixels."""

EPSILON = 2.2204e-16
"""Epsilon of KLD and IG in the code of the MIT benchmark."""
JITTER = 1e-7
"""Amplitude of the noise that breaks ties in AUC_Judd.m, in units of the map."""
MAX_DB = 200.0
"""SQNR of equal values."""
CHUNK = 2**17
"""Pixels that are processed at once."""
THRESHOLDS = np.arange(11)[::-1] * 0.1
"""Thresholds of AUC_Borji.m and AUC_shuffled.m, for maps stretched to [0, 1]."""


def auc(positives: Values, negatives: Values) -> float:
    """Return the probability that a positive value exceeds a negative one; ties count one half.

    This is the area under the ROC curve with every value as a threshold, computed exactly. Arguments have any
    shape. The result is NaN if either is empty.

    Raises:
        InputError: A value is NaN.
    """
    if positives.size == 0 or negatives.size == 0:
        return float("nan")
    return _pair_credit(positives, negatives) / (2 * positives.size * negatives.size)


def auc_judd(
    saliency: Values,
    fixations: Fixations,
    convention: Convention = "pysaliency",
    *,
    unfixated: bool = False,
    seed: int = 0,
) -> float:
    """Return AUC-Judd in [0, 1]: fixations against the pixels of the same frame.

    Definition: Judd et al., ICCV 2009; AUC_Judd.m.

    Args:
        saliency: Map (H, W).
        fixations: (N, 2), row and column.
        convention: In Matlab's convention, negatives are always the pixels without fixations, and the ROC
            curve has thresholds at the fixations' values only.
        unfixated: Negatives are the pixels without fixations instead of all pixels.
        seed: Seed of the noise that breaks ties in Matlab's convention.
    """
    fixated = _flat_indices(saliency, fixations)
    if fixated.size == 0:
        return float("nan")
    pixels = saliency.ravel()
    if _is_matlab(convention):
        fixated = np.unique(fixated)
        if _is_constant(saliency) or fixated.size == pixels.size:
            return float("nan")
        jittered = pixels + np.random.default_rng(seed).random(pixels.size) * JITTER
        values = np.sort(jittered[fixated])[::-1]
        hits = np.arange(1, fixated.size + 1)
        above = pixels.size - np.searchsorted(np.sort(jittered), values)
        return float(_area_under_curve(hits / fixated.size, (above - hits) / (pixels.size - fixated.size)))
    return auc(pixels[fixated], np.delete(pixels, fixated) if unfixated else pixels)


def auc_borji(
    saliency: Values,
    fixations: Fixations,
    convention: Convention = "pysaliency",
    *,
    splits: int = 100,
    seed: int = 0,
) -> float:
    """Return AUC-Borji in [0, 1]: fixations against random pixels.

    Each split draws as many pixels as there are fixations, with replacement; the areas are averaged.
    Definition: Borji, Tavakoli, Sihite & Itti, ICCV 2013; AUC_Borji.m.

    Args:
        saliency: Map (H, W).
        fixations: (N, 2), row and column.
        convention: By default the AUC of the draws is exact. Matlab's ROC curve has eleven thresholds.
        splits: Number of draws.
        seed: Seed of the draws.
    """
    fixated = _flat_indices(saliency, fixations)
    if _is_matlab(convention):
        fixated = np.unique(fixated)
    negatives = np.random.default_rng(seed).integers(saliency.size, size=(splits, fixated.size))
    return _auc_of_indices(saliency, fixated, negatives, convention)


def sauc(
    saliency: Values,
    fixations: Fixations,
    others: Fixations,
    convention: Convention = "pysaliency",
    *,
    splits: int = 100,
    seed: int = 0,
) -> float:
    """Return the shuffled AUC in [0, 1]: fixations against fixations on other images.

    The result is NaN if there are no other fixations. Definition: Zhang et al., "SUN", Journal of Vision
    2008; AUC_shuffled.m.

    Args:
        saliency: Map (H, W).
        fixations: (N, 2), row and column.
        others: Fixations on other images (M, 2), from `other_fixations`. For Matlab's convention, use those
            of ten random images.
        convention: By default all of `others` are negatives, each as often as it occurs. Matlab's convention
            draws as many as there are fixations in each split, and has eleven thresholds.
        splits: Number of draws in Matlab's convention.
        seed: Seed of the draws.
    """
    fixated, negatives = _flat_indices(saliency, fixations), _flat_indices(saliency, others)
    if _is_matlab(convention):
        fixated, negatives = np.unique(fixated), np.unique(negatives)
        count = min(fixated.size, negatives.size)
        rng = np.random.default_rng(seed)
        draws = np.array([rng.permutation(negatives)[:count] for _ in range(splits)])
        return _auc_of_indices(saliency, fixated, draws, convention)
    return _auc_of_indices(saliency, fixated, negatives, convention)


def other_fixations(
    fixations: Sequence[Fixations],
    shapes: Sequence[tuple[int, int]],
    index: int,
    *,
    images: int | None = None,
    seed: int = 0,
) -> Fixations:
    """Return the fixations (M, 2) on all other images, scaled to one image: the negatives of sAUC.

    Args:
        fixations: Fixations (N, 2) on each image.
        shapes: (H, W) of each image.
        index: The image to leave out and to scale to.
        images: Number of random other images to use; None for all.
        seed: Seed of their choice.
    """
    others = [i for i in range(len(fixations)) if i != index]
    if images is not None:
        others = np.random.default_rng(seed).permutation(others)[:images].tolist()
    shape = np.array(shapes[index], np.float64)
    scaled = [np.asarray(fixations[i]).reshape(-1, 2) * (shape / shapes[i]) for i in others]
    return np.concatenate([np.empty((0, 2)), *scaled]).astype(np.int64)


def nss(saliency: Values, fixations: Fixations, convention: Convention = "pysaliency") -> float:
    """Return the normalised scanpath saliency: the mean z-score of the map at the fixations.

    The standard deviation is over all pixels; Matlab's convention divides by H * W - 1. A constant map gives
    0, in Matlab's convention NaN. Definition: Peters et al., Vision Research 2005; NSS.m.
    """
    fixated = _flat_indices(saliency, fixations)
    matlab = _is_matlab(convention)
    if fixated.size == 0 or _is_constant(saliency):
        return float("nan") if matlab or fixated.size == 0 else 0.0
    values = saliency.ravel()[np.unique(fixated) if matlab else fixated].astype(np.float64)
    mean, deviation = (
        np.mean(saliency, dtype=np.float64),
        np.std(saliency, dtype=np.float64, ddof=int(matlab)),
    )
    return float((values.mean() - mean) / deviation)


def cc(a: Values, b: Values, convention: Convention = "pysaliency") -> float:
    """Return Pearson's correlation coefficient of two maps, in [-1, 1].

    It is 0 if either map is constant, in Matlab's convention NaN. Definition: CC.m.
    """
    _check_shapes(a, b)
    x = np.asarray(a, np.float64) - np.mean(a, dtype=np.float64)
    y = np.asarray(b, np.float64) - np.mean(b, dtype=np.float64)
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    constant = float("nan") if _is_matlab(convention) else 0.0
    if _is_constant(a) or _is_constant(b) or not norm > 0:
        return constant
    return float((x * y).sum() / norm)


def sim(a: Values, b: Values, convention: Convention = "pysaliency") -> float:
    """Return the similarity of two maps, in [0, 1]: the sum of the pixelwise minimum of their densities.

    Matlab's convention stretches both maps to [0, 1] first, and gives NaN if either is constant. Definition:
    Judd, Durand & Torralba, MIT-CSAIL-TR-2012-001; similarity.m.
    """
    _check_shapes(a, b)
    if _is_matlab(convention):
        a, b = _stretch(a), _stretch(b)
    return float(np.minimum(_density(a), _density(b)).sum())


def kld(predicted: Values, truth: Values) -> float:
    """Return the Kullback-Leibler divergence of the density `predicted` from the density `truth`, in nats.

    Both maps are divided by their sums: sum P log(eps + P / (S + eps)). Negative results, due to rounding,
    become 0. Definition: KLdiv.m, and MIT_KLDiv of pysaliency; as there, a map of zeros is the uniform
    density.
    """
    _check_shapes(predicted, truth)
    s, p = _density(predicted), _density(truth)
    return float(np.maximum(0.0, (p * np.log(EPSILON + p / (s + EPSILON))).sum()))


def ig(
    saliency: Values, baseline: Values, fixations: Fixations, convention: Convention = "pysaliency"
) -> float:
    """Return the information gain over a baseline in bits per fixation: the mean of log2(S / B).

    Both maps are divided by their sums; of a model's log density, pass `np.exp`. The result is -inf if the
    map is 0 at a fixation, as in maps of 8-bit images: add a small constant to both maps first. Definition:
    Kümmerer, Wallis & Bethge, PNAS 2015; InfoGain.m.

    Args:
        saliency: Map (H, W).
        baseline: Map (H, W).
        fixations: (N, 2), row and column.
        convention: Matlab's convention stretches both maps to [0, 1] first, adds an epsilon to each density,
            and gives NaN if either map is constant.
    """
    _check_shapes(saliency, baseline)
    fixated = _flat_indices(saliency, fixations)
    if fixated.size == 0:
        return float("nan")
    epsilon = 0.0
    if _is_matlab(convention):
        fixated, epsilon = np.unique(fixated), EPSILON
        saliency, baseline = _stretch(saliency), _stretch(baseline)
    with np.errstate(divide="ignore", invalid="ignore"):
        s, b = (np.log2(epsilon + _density(m).ravel()[fixated]) for m in (saliency, baseline))
        return float((s - b).mean())


def max_error(a: Values, b: Values) -> float:
    """Return the largest absolute difference of two arrays; NaN if either contains NaN."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def sqnr_db(signal: float, noise: float) -> float:
    """Return the signal-to-quantization-noise ratio in dB, limited to `MAX_DB` in both directions.

    The result is NaN if the noise is not finite.

    Args:
        signal: Sum of the squared values over all frames.
        noise: Sum of the squared differences over all frames.
    """
    if not math.isfinite(noise):
        return math.nan
    ratio = max(signal, 1e-300) / max(noise, 1e-300)
    return float(np.clip(10 * math.log10(ratio), -MAX_DB, MAX_DB))


def _is_matlab(convention: Convention) -> bool:
    if convention not in ("pysaliency", "matlab"):
        raise InputError(f"no convention {convention!r}, expected 'pysaliency' or 'matlab'")
    return convention == "matlab"


def _flat_indices(saliency: Values, fixations: Fixations) -> NDArray[np.int64]:
    """Return the fixations' indices into the flattened map, after checking both."""
    if saliency.ndim != 2 or saliency.size == 0:
        raise InputError(f"a map has shape {saliency.shape}, expected (H, W): give one frame's map")
    points = np.asarray(fixations)
    if points.size == 0:
        return np.empty(0, np.int64)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iu":
        raise InputError(
            f"fixations are {points.dtype} of shape {points.shape}, expected integers (N, 2): give "
            "(row, column) in pixels"
        )
    points = points.astype(np.int64)
    if (points < 0).any() or (points >= saliency.shape).any():
        low, high = points.min(0).tolist(), points.max(0).tolist()
        raise InputError(
            f"fixations (row, column) reach from {low} to {high}, expected them inside a map of "
            f"{saliency.shape}: scale them to the map, or leave out those outside"
        )
    return np.asarray(points[:, 0] * saliency.shape[1] + points[:, 1], np.int64)


def _check_shapes(a: Values, b: Values) -> None:
    if np.shape(a) != np.shape(b):
        raise InputError(f"maps have shapes {np.shape(a)} and {np.shape(b)}, expected one: resize either")


def _is_constant(values: Values) -> bool:
    return bool(np.max(values) == np.min(values))


def _density(values: Values) -> NDArray[np.float64]:
    """Return the map divided by its sum; uniform if the sum is 0. A negative minimum is subtracted first."""
    density = np.asarray(values, np.float64) - min(0.0, float(np.min(values)))
    total = float(density.sum())
    return np.full(density.shape, 1 / density.size) if total == 0 else density / total


def _stretch(values: Values) -> NDArray[np.float64]:
    """Return the map stretched to [0, 1]; NaN if it is constant."""
    low, high = float(np.min(values)), float(np.max(values))
    span = high - low if high > low else float("nan")
    return (np.asarray(values, np.float64) - low) / span


def _auc_of_indices(saliency: Values, positives: Values, negatives: Values, convention: Convention) -> float:
    """Return the AUC of the pixels at `positives` against those at `negatives`, (M,) or (splits, n)."""
    if positives.size == 0 or negatives.size == 0:
        return float("nan")
    if not _is_matlab(convention):
        return auc(saliency.ravel()[positives], saliency.ravel()[negatives])
    if _is_constant(saliency):
        return float("nan")
    pixels = _stretch(saliency).ravel()
    tp = (pixels[positives, None] >= THRESHOLDS).mean(0)
    fp = (pixels[negatives, None] >= THRESHOLDS).mean(1)
    return float(_area_under_curve(np.broadcast_to(tp, fp.shape), fp).mean())


def _area_under_curve(tp: Values, fp: Values) -> Values:
    """Return the area under the straight lines through (0, 0), the points (..., n) and (1, 1)."""
    edges = [(0, 0)] * (tp.ndim - 1) + [(1, 1)]
    tp, fp = (np.pad(rate, edges, constant_values=((0, 1),)) for rate in (tp, fp))
    area: Values = (np.diff(fp) * (tp[..., 1:] + tp[..., :-1]) / 2).sum(-1)
    return area


def _pair_credit(values: Values, pixels: Values) -> int:
    """Return the sum over all pairs of 2 where the value exceeds the pixel, and 1 where they are equal.

    The range of the values is divided into about 2**15 bins, and the credit of a pixel is looked up by its
    bin. Only pixels that share a bin with a value are sorted; with few values these are few. Pixels are
    processed in chunks that fit the processor's cache.
    """
    dtype, pixels = np.result_type(values, pixels), pixels.ravel()
    value_keys = _sort_keys(values.ravel(), dtype)
    low, high = int(value_keys.min()), int(value_keys.max())
    is_exact = dtype.kind in "biu" and dtype.itemsize <= 2 and high - low < 2**15
    shift = 0 if is_exact else max(2, (high - low).bit_length() - 15)  # from 2 on no difference overflows
    first_bin = (low >> shift) - 1

    def bins(keys: Values) -> Values:
        indices = keys >> shift
        indices -= keys.dtype.type(first_bin)
        return indices

    value_bins = bins(value_keys)
    bin_counts = np.bincount(value_bins, minlength=int(value_bins.max()) + 2)
    table = 2 * (value_keys.size - np.cumsum(bin_counts)) + bin_counts
    if value_keys.size * CHUNK < 2**30:
        table = table.astype(np.int32)  # the sums of a chunk fit
    if not is_exact:
        table[value_bins] = -1  # undecided: compare the values themselves
    total, undecided = 0, [value_keys[:0]]
    for start in range(0, pixels.size, CHUNK):
        keys = _sort_keys(pixels[start : start + CHUNK], dtype)
        credit = table.take(bins(keys), mode="clip")  # outside the range a pixel loses or wins all pairs
        if not is_exact:
            undecided.append(keys[credit < 0])
        total += int(credit.sum(dtype=table.dtype)) + undecided[-1].size
    sorted_keys = np.sort(np.concatenate(undecided))
    left, right = (
        np.searchsorted(sorted_keys, value_keys, "left"),
        np.searchsorted(sorted_keys, value_keys, "right"),
    )
    return total + int(left.sum() + right.sum())


def _sort_keys(values: Values, dtype: np.dtype[Any]) -> Values:
    """Return the values as int32 or int64 in the same order; floats by their bits (IEEE 754)."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype == np.uint64:
        raise InputError(f"a map holds {dtype}, expected integers or floats: convert it to float64")
    if dtype.kind != "f":
        return values.astype(np.result_type(dtype, np.int32), copy=False)
    values = values.astype(np.result_type(dtype, np.float32), copy=False)
    bits = values.view(f"i{values.itemsize}")
    if bits.view(f"u{values.itemsize}").max() <= np.array(np.inf, values.dtype).view(bits.dtype):
        return bits
    if np.isnan(values).any():
        raise InputError("a map holds NaN, expected numbers: look for the frame or the model it comes from")
    bits = (values + 0).view(bits.dtype)  # makes -0 equal 0; the bits of negative numbers sort in reverse
    keys: Values = bits ^ ((bits >> (8 * values.itemsize - 1)) & np.iinfo(bits.dtype).max)
    return keys
