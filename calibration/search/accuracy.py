"""Accuracy of a changed graph: its saliency maps against those of the fp32 graph, on held-out frames."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import Windows, sample_evenly
from calibration.inputs.graph_inputs import InputFeeder, Window, open_session
from calibration.search.latency_model import convolution_mmacs
from edge.core.errors import InputError
from edge.hardware.host import detect_machine
from edge.metrics.saliency import cc, kld, sqnr_db

SaliencyMap = NDArray[np.float32]
MAX_SUBSET_MMACS = 12_800
"""Cost limit of an evaluation on a subset, in 1e6 multiply-accumulates of convolutions.

It corresponds to 16 windows of skd-128.
"""
MIN_SUBSET_WINDOWS, MIN_SUBSET_CLIPS = 8, 2
"""Number of windows of a subset that are evaluated whatever they cost; of clips with a map for each frame."""
KEPT_GRAPHS = 4
"""Number of graphs whose maps an evaluator keeps."""
MAX_PARALLEL_WINDOWS = 8
"""Number of windows that run at the same time. Each one needs the memory of a run."""


@dataclass(frozen=True)
class Quality:
    """Similarity of maps with the expected maps.

    Attributes:
        sqnr_db: Signal-to-quantization-noise ratio in dB, over all values of all frames.
        cc: Linear correlation coefficient, mean over frames.
        kld: Kullback-Leibler divergence, mean over frames.
    """

    sqnr_db: float
    cc: float
    kld: float


@dataclass(frozen=True)
class AccuracyBudget:
    """Limits for the accuracy loss of an int8 graph; a limit that is None does not apply.

    Attributes:
        cc: Greatest value of 1 - CC, mean over frames.
        kld: Greatest KLD, mean over frames.
    """

    cc: float | None = None
    kld: float | None = None

    @classmethod
    def parse(cls, text: str) -> AccuracyBudget:
        """Parse `cc=0.005`, `kld=0.005`, or both separated by a comma.

        Raises:
            InputError: If the text has another form or a limit is not between 0 and 1.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                number = float(value)
            except ValueError:
                number = -1.0
            if name not in ("cc", "kld") or name in limits or not 0 < number < 1:
                raise InputError(
                    f"budget {text!r} is not understood at {part.strip()!r}; "
                    "expected the greatest loss, between 0 and 1: cc=0.005, kld=0.005, or both with a comma"
                )
            limits[name] = number
        return cls(**limits)

    def fraction_used(self, quality: Quality) -> float:
        """Return the fraction of the budget that a quality uses up; more than 1 exceeds the budget."""
        fractions = [(1 - quality.cc) / self.cc if self.cc else 0.0]
        fractions.append(quality.kld / self.kld if self.kld else 0.0)
        return math.inf if any(map(math.isnan, fractions)) else max(fractions)

    def __str__(self) -> str:
        parts = [f"1 - CC at most {self.cc:g}"] if self.cc else []
        return ", ".join(parts + ([f"KLD at most {self.kld:g}"] if self.kld else []))


class AccuracyEvaluator:
    """Compares the maps of changed graphs with those of the original graph, on fixed windows.

    The maps of the last graphs are kept: the graph that ships is first selected by its ranges, then searched
    from, and finally evaluated on all windows.

    Args:
        model: The original graph, whose maps are the expected ones.
        feeder: Maps a window to the inputs of the graphs.
        windows: The windows to run the graphs on.
        expected: The maps of the original graph on these windows; None to compute them.

    Raises:
        InputError: If a map of the original graph has values that are not finite.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        feeder: InputFeeder,
        windows: Windows,
        expected: Sequence[SaliencyMap] | None = None,
    ) -> None:
        self.feeder, self.windows = feeder, windows
        self._whole = self
        self._known_maps: dict[bytes, list[SaliencyMap]] = {}
        self.expected = compute_maps(model, feeder, windows) if expected is None else expected
        if not all(np.isfinite(saliency).all() for saliency in self.expected):
            raise InputError(
                f"output {feeder.output} is not finite on the held-out frames; expected finite numbers: the "
                "network is broken, train or export it again"
            )

    @classmethod
    def on_subset(
        cls, model: onnx.ModelProto, feeder: InputFeeder, windows: Windows, max_windows: int
    ) -> AccuracyEvaluator:
        """Return an evaluator on an evenly spaced subset of the windows.

        The subset has at most `max_windows` windows, and fewer if they would cost more than
        `MAX_SUBSET_MMACS`.
        """
        count = _subset_size(model, feeder, windows, max_windows)
        chosen = windows if count >= len(windows) else np.stack(sample_evenly(windows, count))
        return cls(model, feeder, chosen)

    def subset(self, model: onnx.ModelProto, max_windows: int) -> AccuracyEvaluator:
        """Return an evaluator on a subset of these windows, as `on_subset` does; no map is computed again."""
        count = _subset_size(model, self.feeder, self.windows, max_windows)
        if count >= len(self.windows):
            return self
        subset = copy.copy(self)
        subset._known_maps = {}
        subset.windows = np.stack(sample_evenly(self.windows, count))
        subset.expected = sample_evenly(self.expected, count)
        return subset

    def compute_maps(self, model: onnx.ModelProto, disable_qdq_fusion: bool = False) -> list[SaliencyMap]:
        """Return the map of each window; see the function of this name."""
        key = hashlib.sha256(model.SerializeToString() + bytes([disable_qdq_fusion])).digest()
        if key in self._whole._known_maps:
            return sample_evenly(self._whole._known_maps[key], len(self.windows))
        if key not in self._known_maps:
            maps = compute_maps(model, self.feeder, self.windows, disable_qdq_fusion)
            self._known_maps = dict([*self._known_maps.items(), (key, maps)][-KEPT_GRAPHS:])
        return self._known_maps[key]

    def __call__(self, model: onnx.ModelProto, disable_qdq_fusion: bool = False) -> Quality:
        """Return the quality of a graph's maps.

        Args:
            model: The changed graph.
            disable_qdq_fusion: Run Q/DQ nodes as separate operators, see `open_session`.
        """
        return compare_maps(self.compute_maps(model, disable_qdq_fusion), self.expected)


def compute_maps(
    model: onnx.ModelProto, feeder: InputFeeder, windows: Iterable[Window], disable_qdq_fusion: bool = False
) -> list[SaliencyMap]:
    """Return the map of each window. Windows run in parallel, one per core.

    Args:
        model: The graph. Its states are carried in its precision.
        feeder: Maps a window to the inputs of the graph.
        windows: The windows.
        disable_qdq_fusion: Run Q/DQ nodes as separate operators, see `open_session`.
    """
    session, remaining = open_session(model, 1, disable_qdq_fusion), iter(windows)
    cores = min(MAX_PARALLEL_WINDOWS, detect_machine().cores)
    maps: list[SaliencyMap] = []
    with ThreadPoolExecutor(cores) as pool:
        while batch := list(islice(remaining, cores)):
            maps += pool.map(lambda window: feeder.run(session, window), batch)
    return maps


def _subset_size(model: onnx.ModelProto, feeder: InputFeeder, windows: Windows, max_windows: int) -> int:
    """Return the number of windows that a subset may have."""
    frames = len(next(iter(windows))) if feeder.states and feeder.clip == 1 else 1
    cost = frames * sum(convolution_mmacs(model).values())
    min_windows = MIN_SUBSET_CLIPS if feeder.clip > 1 and not feeder.states else MIN_SUBSET_WINDOWS
    return min(max_windows, max(min_windows, int(MAX_SUBSET_MMACS / max(cost, 1))))


def compare_maps(maps: Sequence[SaliencyMap], expected: Sequence[SaliencyMap]) -> Quality:
    """Return the quality of maps measured against the expected maps."""
    pairs = list(zip(maps, expected, strict=True))
    signal = sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    return Quality(
        sqnr_db(signal, noise),
        float(np.mean([_correlation(a, b) for a, b in pairs])),
        float(np.mean([kld(a, b) for a, b in pairs])),
    )


def _correlation(actual: SaliencyMap, expected: SaliencyMap) -> float:
    # CC is undefined for constant maps; two equal maps count as fully correlated.
    return 1.0 if np.array_equal(actual, expected) else cc(actual, expected)
