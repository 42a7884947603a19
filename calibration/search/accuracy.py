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

from calibration.inputs.calibration_frames import Windows, spread_over
from calibration.inputs.graph_inputs import Feeding, open_session
from calibration.search.latency_model import work
from edge.core.errors import InputError
from edge.hardware.host import this_machine
from edge.metrics.saliency import cc, kld, sqnr_db

Map = NDArray[np.float32]
LOOK = 12_800
"""Multiply-accumulates of convolutions, in units of 1e6, of a quick look: 16 windows of skd-128."""
LEAST = 8
"""Windows of a quick look, whatever they cost."""
MOST_AT_ONCE = 8
"""Windows judged at a time: each takes the memory of a run."""


@dataclass(frozen=True)
class Quality:
    """SQNR in dB over all values of all frames; CC and KLD, means over frames."""

    sqnr_db: float
    cc: float
    kld: float


@dataclass(frozen=True)
class Budget:
    """The most that may be lost: 1 - CC, and KLD; means over frames. None: not asked for."""

    cc: float | None = None
    kld: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
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

    def spent(self, quality: Quality) -> float:
        """Return what share of the budget is used up: more than 1 breaks it."""
        shares = [(1 - quality.cc) / self.cc if self.cc else 0.0]
        shares.append(quality.kld / self.kld if self.kld else 0.0)
        return math.inf if any(map(math.isnan, shares)) else max(shares)

    def __str__(self) -> str:
        parts = [f"1 - CC at most {self.cc:g}"] if self.cc else []
        return ", ".join(parts + ([f"KLD at most {self.kld:g}"] if self.kld else []))


class Judge:
    """Holds a graph's own maps, and compares those of its changed forms with them."""

    def __init__(self, model: onnx.ModelProto, feeding: Feeding, windows: Windows) -> None:
        self.feeding, self.windows = feeding, windows
        self.expected = self.maps(model)
        if not all(np.isfinite(saliency).all() for saliency in self.expected):
            raise InputError(
                f"output {feeding.output} is not finite on the frames held out; expected numbers: the "
                "network is broken, train or export it again"
            )

    @classmethod
    def quick(cls, model: onnx.ModelProto, feeding: Feeding, windows: Windows, most: int) -> Judge:
        """Return a judge by `most` of the windows, or by fewer where they cost more than `LOOK`."""
        frames = len(next(iter(windows))) if feeding.states else 1
        cost = frames * sum(work(model).values())
        count = min(most, max(LEAST, int(LOOK / max(cost, 1))))
        return cls(model, feeding, np.stack(spread_over(windows, count)))

    def maps(self, model: onnx.ModelProto, plain: bool = False) -> list[Map]:
        """Return a graph's map of each window, as many windows at a time as there are cores.

        States are carried in the graph's own precision.
        """
        session, windows = open_session(model, 1, plain), iter(self.windows)
        cores = min(MOST_AT_ONCE, this_machine().cores)
        made: list[Map] = []
        with ThreadPoolExecutor(cores) as pool:
            while some := list(islice(windows, cores)):
                made += pool.map(lambda window: self.feeding.result(session, window), some)
        return made

    def __call__(self, model: onnx.ModelProto, plain: bool = False) -> Quality:
        """Compare a graph. `plain`: run its operators as they are written."""
        return quality(self.maps(model, plain), self.expected)


def quality(maps: Sequence[Map], expected: Sequence[Map]) -> Quality:
    """Compare maps with those expected."""
    pairs = list(zip(maps, expected, strict=True))
    signal = sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in pairs)
    return Quality(
        sqnr_db(signal, noise),
        float(np.mean([_likeness(a, b) for a, b in pairs])),
        float(np.mean([kld(a, b) for a, b in pairs])),
    )


def _likeness(got: Map, expected: Map) -> float:
    """Return the correlation; that of two equal maps is 1 even where nothing varies."""
    return 1.0 if np.array_equal(got, expected) else cc(got, expected)
