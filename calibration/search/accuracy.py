"""How far a changed graph's maps are from the fp32 graph's, on frames that no range was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import Windows, sample_evenly
from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.search.latency_model import convolution_mmacs
from edge.core.errors import InputError
from edge.hardware.host import detect_machine
from edge.metrics.saliency import cc, kld, sqnr_db

SaliencyMap = NDArray[np.float32]
MAX_SUBSET_MMACS = 12_800
"""Multiply-accumulates of convolutions, in units of 1e6, of a quick look: 16 windows of skd-128."""
MIN_SUBSET_WINDOWS = 8
"""Windows of a quick look, whatever they cost."""
MAX_PARALLEL_WINDOWS = 8
"""Windows judged at a time: each takes the memory of a run."""


@dataclass(frozen=True)
class Quality:
    """SQNR in dB over all values of all frames; CC and KLD, means over frames."""

    sqnr_db: float
    cc: float
    kld: float


@dataclass(frozen=True)
class AccuracyBudget:
    """The most that may be lost: 1 - CC, and KLD; means over frames. None: not asked for."""

    cc: float | None = None
    kld: float | None = None

    @classmethod
    def parse(cls, text: str) -> AccuracyBudget:
        """Read `cc=0.005`, `kld=0.005`, or both with a comma between.

        Raises:
            InputError: it is neither.
        """
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                number = float(value)
            except ValueError:
                number = -1.0
            if name not in ("cc", "kld") or name in found or not 0 < number < 1:
                raise InputError(
                    f"budget {text!r} is not understood at {part.strip()!r}; "
                    "expected what may be lost, between 0 and 1: cc=0.005, kld=0.005, or both with a comma"
                )
            found[name] = number
        return cls(**found)

    def fraction_used(self, quality: Quality) -> float:
        """Return what share of the budget is used up: more than 1 breaks it."""
        shares = [(1 - quality.cc) / self.cc if self.cc else 0.0]
        shares.append(quality.kld / self.kld if self.kld else 0.0)
        return math.inf if any(map(math.isnan, shares)) else max(shares)

    def __str__(self) -> str:
        parts = [f"1 - CC at most {self.cc:g}"] if self.cc else []
        return ", ".join(parts + ([f"KLD at most {self.kld:g}"] if self.kld else []))


class AccuracyEvaluator:
    """Holds a graph's own maps, and compares those of its changed forms with them."""

    def __init__(self, model: onnx.ModelProto, feeder: InputFeeder, windows: Windows) -> None:
        self.feeder, self.windows = feeder, windows
        self.expected = self.compute_maps(model)
        if not all(np.isfinite(saliency).all() for saliency in self.expected):
            raise InputError(
                f"output {feeder.output} is not finite on the frames held out; expected numbers: the "
                "network is broken, train or export it again"
            )

    @classmethod
    def on_subset(
        cls, model: onnx.ModelProto, feeder: InputFeeder, windows: Windows, most: int
    ) -> AccuracyEvaluator:
        """Return a judge by `most` of the windows, or by fewer where they cost more than `MAX_SUBSET_MMACS`."""
        frames = len(next(iter(windows))) if feeder.states else 1
        cost = frames * sum(convolution_mmacs(model).values())
        count = min(most, max(MIN_SUBSET_WINDOWS, int(MAX_SUBSET_MMACS / max(cost, 1))))
        return cls(model, feeder, np.stack(sample_evenly(windows, count)))

    def compute_maps(self, model: onnx.ModelProto, disable_qdq_fusion: bool = False) -> list[SaliencyMap]:
        """Return a graph's map of each window, as many windows at a time as there are cores.

        States are carried in the graph's own precision.
        """
        session, windows = open_session(model, 1, disable_qdq_fusion), iter(self.windows)
        cores = min(MAX_PARALLEL_WINDOWS, detect_machine().cores)
        made: list[SaliencyMap] = []
        with ThreadPoolExecutor(cores) as pool:
            while some := list(islice(windows, cores)):
                made += pool.map(lambda window: self.feeder.run(session, window), some)
        return made

    def __call__(self, model: onnx.ModelProto, disable_qdq_fusion: bool = False) -> Quality:
        """Compare a graph. `disable_qdq_fusion`: run its operators as they are written."""
        return compare_maps(self.compute_maps(model, disable_qdq_fusion), self.expected)


def compare_maps(maps: Sequence[SaliencyMap], expected: Sequence[SaliencyMap]) -> Quality:
    """Compare maps with those expected."""
    pairs = list(zip(maps, expected, strict=True))
    signal = sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    return Quality(
        sqnr_db(signal, noise),
        float(np.mean([_likeness(a, b) for a, b in pairs])),
        float(np.mean([kld(a, b) for a, b in pairs])),
    )


def _likeness(got: SaliencyMap, expected: SaliencyMap) -> float:
    """Return the correlation; that of two equal maps is 1 even where nothing varies."""
    return 1.0 if np.array_equal(got, expected) else cc(got, expected)
