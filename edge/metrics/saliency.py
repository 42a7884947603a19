"""How well a map tells where viewers look, and how far two maps are apart.

Maps are (H, W), non-negative, in any unit. Fixations are an (N, 2) integer array of (row, column);
duplicates are allowed. Definitions are those of Bylinskii et al., "What do different evaluation metrics
tell us about saliency models?", TPAMI 2019 (arXiv 1604.03605), section 3, in two conventions:

- `pysaliency`, the default: exact. Ties count one half, every fixation counts, a constant map predicts
  nothing (AUC 0.5, NSS 0, CC 0; for SIM, KLD and IG it is the uniform density).
- `matlab`: the code of the MIT benchmark (github.com/cvzoya/saliency, code_forMetrics) that DHF1K's
  evaluation follows. Ties are broken by jitter, fixations on the same pixel count once, random draws
  come from `seed`, and a constant map gives NaN.

Either way a frame without fixations gives NaN: leave it out of a mean, it is neither good nor bad.
Bad input raises `InputError`.
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
"""(N, 2) of (row, column)."""

EPSILON = 2.2204e-16
"""The epsilon of KLD and IG in the MIT benchmark's code."""
JITTER = 1e-7
"""The noise that breaks ties in its AUC_Judd, in units of the map."""
MOST_DB = 200.0
"""SQNR of equal values."""
CHUNK = 2**17
THRESHOLDS = np.arange(11)[::-1] * 0.1
"""Of its AUC_Borji and AUC_shuffled, for maps stretched to [0, 1]."""


def auc(positives: Values, negatives: Values) -> float:
    """Return the probability that a positive outranks a negative, ties one half; exact.

    It is the area under the ROC curve with every value as a threshold. Both are values of any shape.
    NaN if either is empty.

    Raises:
        InputError: a value is NaN.
    """
    if positives.size == 0 or negatives.size == 0:
        return float("nan")
    return _credit(positives, negatives) / (2 * positives.size * negatives.size)


def auc_judd(
    saliency: Values,
    fixations: Fixations,
    convention: Convention = "pysaliency",
    *,
    unfixated: bool = False,
    seed: int = 0,
) -> float:
    """Return AUC-Judd in [0, 1]: how the map ranks fixations among the pixels of its frame.

    By default the negatives are all pixels, with `unfixated` those without a fixation. In Matlab's
    convention they are always the latter, and the curve is drawn through the fixations' values alone
    (Judd et al., ICCV 2009; AUC_Judd.m).
    """
    at = _places(saliency, fixations)
    if at.size == 0:
        return float("nan")
    pixels = saliency.ravel()
    if _matlab(convention):
        at = np.unique(at)
        if _constant(saliency) or at.size == pixels.size:
            return float("nan")
        jittered = pixels + np.random.default_rng(seed).random(pixels.size) * JITTER
        values = np.sort(jittered[at])[::-1]
        found = np.arange(1, at.size + 1)
        above = pixels.size - np.searchsorted(np.sort(jittered), values)
        return float(_area(found / at.size, (above - found) / (pixels.size - at.size)))
    return auc(pixels[at], np.delete(pixels, at) if unfixated else pixels)


def auc_borji(
    saliency: Values,
    fixations: Fixations,
    convention: Convention = "pysaliency",
    *,
    splits: int = 100,
    seed: int = 0,
) -> float:
    """Return AUC-Borji in [0, 1]: how the map ranks fixations among random pixels.

    As many pixels as fixations are drawn, with replacement, in each of `splits` draws; the curves' areas
    are averaged. The default is exact on what was drawn; Matlab's curve has eleven thresholds (Borji,
    Tavakoli, Sihite & Itti, ICCV 2013; AUC_Borji.m).
    """
    at = _places(saliency, fixations)
    if _matlab(convention):
        at = np.unique(at)
    drawn = np.random.default_rng(seed).integers(saliency.size, size=(splits, at.size))
    return _auc_among(saliency, at, drawn, convention)


def sauc(
    saliency: Values,
    fixations: Fixations,
    others: Fixations,
    convention: Convention = "pysaliency",
    *,
    splits: int = 100,
    seed: int = 0,
) -> float:
    """Return the shuffled AUC in [0, 1]: how the map ranks fixations among those of other images.

    By default all of `others` (M, 2) are negatives, each as often as it occurs. Matlab's convention
    draws as many as there are fixations in each of `splits` draws and has eleven thresholds; take
    `others` from ten random images then (Zhang et al., "SUN", Journal of Vision 2008; AUC_shuffled.m).
    `other_fixations` gives either. NaN if there are no others.
    """
    at, negatives = _places(saliency, fixations), _places(saliency, others)
    if _matlab(convention):
        at, negatives = np.unique(at), np.unique(negatives)
        each = min(at.size, negatives.size)
        rng = np.random.default_rng(seed)
        drawn = np.array([rng.permutation(negatives)[:each] for _ in range(splits)])
        return _auc_among(saliency, at, drawn, convention)
    return _auc_among(saliency, at, negatives, convention)


def other_fixations(
    fixations: Sequence[Fixations],
    shapes: Sequence[tuple[int, int]],
    index: int,
    *,
    images: int | None = None,
    seed: int = 0,
) -> Fixations:
    """Return the fixations (M, 2) of all images but `index`, scaled to its shape: sAUC's negatives.

    `shapes` are (H, W), one an image. With `images`, that many random other images are taken.
    """
    others = [i for i in range(len(fixations)) if i != index]
    if images is not None:
        others = np.random.default_rng(seed).permutation(others)[:images].tolist()
    shape = np.array(shapes[index], np.float64)
    moved = [np.asarray(fixations[i]).reshape(-1, 2) * (shape / shapes[i]) for i in others]
    return np.concatenate([np.empty((0, 2)), *moved]).astype(np.int64)


def nss(saliency: Values, fixations: Fixations, convention: Convention = "pysaliency") -> float:
    """Return the normalised scanpath saliency: the mean z-score of the map on fixations.

    The deviation is over all pixels; Matlab's divides by H W - 1 (Peters et al., Vision Research 2005;
    NSS.m). A constant map gives 0, in Matlab's convention NaN.
    """
    at = _places(saliency, fixations)
    matlab = _matlab(convention)
    if at.size == 0 or _constant(saliency):
        return float("nan") if matlab or at.size == 0 else 0.0
    values = saliency.ravel()[np.unique(at) if matlab else at].astype(np.float64)
    mean, deviation = (
        np.mean(saliency, dtype=np.float64),
        np.std(saliency, dtype=np.float64, ddof=int(matlab)),
    )
    return float((values.mean() - mean) / deviation)


def cc(a: Values, b: Values, convention: Convention = "pysaliency") -> float:
    """Return Pearson's correlation of two maps, in [-1, 1].

    0 if either is constant, in Matlab's convention NaN (CC.m).
    """
    _check_shapes(a, b)
    x = np.asarray(a, np.float64) - np.mean(a, dtype=np.float64)
    y = np.asarray(b, np.float64) - np.mean(b, dtype=np.float64)
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    constant = float("nan") if _matlab(convention) else 0.0
    if _constant(a) or _constant(b) or not norm > 0:
        return constant
    return float((x * y).sum() / norm)


def sim(a: Values, b: Values, convention: Convention = "pysaliency") -> float:
    """Return the similarity of two maps, in [0, 1]: the sum of the smaller of their densities.

    Matlab's convention stretches both maps to [0, 1] first, and gives NaN if either is constant
    (Judd, Durand & Torralba, MIT-CSAIL-TR-2012-001; similarity.m).
    """
    _check_shapes(a, b)
    if _matlab(convention):
        a, b = _stretched(a), _stretched(b)
    return float(np.minimum(_density(a), _density(b)).sum())


def kld(predicted: Values, truth: Values) -> float:
    """Return the Kullback-Leibler divergence of `predicted` from the density `truth`, in nats.

    Both are divided by their sums: sum P log(eps + P / (S + eps)), rounding below 0 cut off. It is
    KLdiv.m and pysaliency's MIT_KLDiv; as there, a map of zeros is the uniform density.
    """
    _check_shapes(predicted, truth)
    s, p = _density(predicted), _density(truth)
    return float(np.maximum(0.0, (p * np.log(EPSILON + p / (s + EPSILON))).sum()))


def ig(
    saliency: Values, baseline: Values, fixations: Fixations, convention: Convention = "pysaliency"
) -> float:
    """Return the information gain over a baseline, in bits per fixation: mean of log2(S / B).

    Both maps are taken as densities, after division by their sums; a model's log density goes in as
    `np.exp` of it. -inf if the map is 0 on a fixation, as maps from 8-bit images are: add a floor to both
    first. Matlab's convention stretches both to [0, 1] before, adds an epsilon to each density, and gives
    NaN if either is constant (Kümmerer, Wallis & Bethge, PNAS 2015; InfoGain.m).
    """
    _check_shapes(saliency, baseline)
    at = _places(saliency, fixations)
    if at.size == 0:
        return float("nan")
    floor = 0.0
    if _matlab(convention):
        at, floor = np.unique(at), EPSILON
        saliency, baseline = _stretched(saliency), _stretched(baseline)
    with np.errstate(divide="ignore", invalid="ignore"):
        s, b = (np.log2(floor + _density(m).ravel()[at]) for m in (saliency, baseline))
        return float((s - b).mean())


def max_error(a: Values, b: Values) -> float:
    """Return the largest absolute difference; NaN if either holds a NaN."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def sqnr_db(signal: float, noise: float) -> float:
    """Return 10 log10 of a signal's power over that of the difference, at most `MOST_DB` either way.

    Powers are sums of squares over all values of all frames. NaN if the difference is not finite.
    """
    if not math.isfinite(noise):
        return math.nan
    ratio = max(signal, 1e-300) / max(noise, 1e-300)
    return float(np.clip(10 * math.log10(ratio), -MOST_DB, MOST_DB))


def _matlab(convention: Convention) -> bool:
    if convention not in ("pysaliency", "matlab"):
        raise InputError(f"no convention {convention!r}, expected 'pysaliency' or 'matlab'")
    return convention == "matlab"


def _places(saliency: Values, fixations: Fixations) -> NDArray[np.int64]:
    """Return the fixations' places in the flattened map, after checking both."""
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


def _constant(values: Values) -> bool:
    return bool(np.max(values) == np.min(values))


def _density(values: Values) -> NDArray[np.float64]:
    """Return the map divided by its sum; uniform if that is 0. A negative minimum is taken off first."""
    density = np.asarray(values, np.float64) - min(0.0, float(np.min(values)))
    total = float(density.sum())
    return np.full(density.shape, 1 / density.size) if total == 0 else density / total


def _stretched(values: Values) -> NDArray[np.float64]:
    """Return the map stretched to [0, 1]; NaN if it is constant."""
    low, high = float(np.min(values)), float(np.max(values))
    span = high - low if high > low else float("nan")
    return (np.asarray(values, np.float64) - low) / span


def _auc_among(saliency: Values, at: Values, drawn: Values, convention: Convention) -> float:
    """Return the AUC of places `at` against places `drawn`, (M,) or (splits, n)."""
    if at.size == 0 or drawn.size == 0:
        return float("nan")
    if not _matlab(convention):
        return auc(saliency.ravel()[at], saliency.ravel()[drawn])
    if _constant(saliency):
        return float("nan")
    pixels = _stretched(saliency).ravel()
    tp = (pixels[at, None] >= THRESHOLDS).mean(0)
    fp = (pixels[drawn, None] >= THRESHOLDS).mean(1)
    return float(_area(np.broadcast_to(tp, fp.shape), fp).mean())


def _area(tp: Values, fp: Values) -> Values:
    """Return the area under the straight lines through (0, 0), the points (..., n) and (1, 1)."""
    edges = [(0, 0)] * (tp.ndim - 1) + [(1, 1)]
    tp, fp = (np.pad(rate, edges, constant_values=((0, 1),)) for rate in (tp, fp))
    area: Values = (np.diff(fp) * (tp[..., 1:] + tp[..., :-1]) / 2).sum(-1)
    return area


def _credit(values: Values, pixels: Values) -> int:
    """Return the sum over all pairs of 2 where the value is above the pixel, 1 where they are equal.

    The values' range is cut into some 2**15 bins. A pixel's credit is looked up by its bin, chunk by
    chunk, to stay in the processor's cache; only pixels in a bin with a value, few where values are few,
    are sorted.
    """
    kind, pixels = np.result_type(values, pixels), pixels.ravel()
    few = _keys(values.ravel(), kind)
    least, most = int(few.min()), int(few.max())
    exact = kind.kind in "biu" and kind.itemsize <= 2 and most - least < 2**15
    shift = 0 if exact else max(2, (most - least).bit_length() - 15)  # from 2 on no difference overflows
    first = (least >> shift) - 1

    def bins(keys: Values) -> Values:
        places = keys >> shift
        places -= keys.dtype.type(first)
        return places

    own = bins(few)
    held = np.bincount(own, minlength=int(own.max()) + 2)
    table = 2 * (few.size - np.cumsum(held)) + held
    if few.size * CHUNK < 2**30:
        table = table.astype(np.int32)  # sums of a chunk fit
    if not exact:
        table[own] = -1  # look closer
    total, near = 0, [few[:0]]
    for start in range(0, pixels.size, CHUNK):
        keys = _keys(pixels[start : start + CHUNK], kind)
        credit = table.take(bins(keys), mode="clip")  # outside the range: all or none
        if not exact:
            near.append(keys[credit < 0])
        total += int(credit.sum(dtype=table.dtype)) + near[-1].size
    rivals = np.sort(np.concatenate(near))
    left, right = np.searchsorted(rivals, few, "left"), np.searchsorted(rivals, few, "right")
    return total + int(left.sum() + right.sum())


def _keys(values: Values, kind: np.dtype[Any]) -> Values:
    """Return the values as int32 or int64 of the same order: floats by their bits (IEEE 754)."""
    if kind.kind not in "biuf" or kind.itemsize > 8 or kind == np.uint64:
        raise InputError(f"a map holds {kind}, expected integers or floats: convert it to float64")
    if kind.kind != "f":
        return values.astype(np.result_type(kind, np.int32), copy=False)
    values = values.astype(np.result_type(kind, np.float32), copy=False)
    bits = values.view(f"i{values.itemsize}")
    if bits.view(f"u{values.itemsize}").max() <= np.array(np.inf, values.dtype).view(bits.dtype):
        return bits
    if np.isnan(values).any():
        raise InputError("a map holds NaN, expected numbers: look for the frame or the model it comes from")
    bits = (values + 0).view(bits.dtype)  # -0 is 0; negative numbers' bits rise as they fall
    keys: Values = bits ^ ((bits >> (8 * values.itemsize - 1)) & np.iinfo(bits.dtype).max)
    return keys
