"""How far a changed graph's maps are from the fp32 graph's, on frames that no range was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.feeding import Feeding, open_session
from calibration.frames import Windows
from edge.errors import InputError
from edge.metrics import cc, kld, sqnr_db

Map = NDArray[np.float32]


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

    def __init__(self, model: onnx.ModelProto, feeding: Feeding, windows: Windows, threads: int = 0) -> None:
        """`threads`: of inference; 0 is one a core."""
        self.feeding, self.windows, self._threads = feeding, windows, threads
        self.expected = self.maps(model)
        if not all(np.isfinite(saliency).all() for saliency in self.expected):
            raise InputError(
                f"output {feeding.output} is not finite on the frames held out; expected numbers: the "
                "network is broken, train or export it again"
            )

    def maps(self, model: onnx.ModelProto, plain: bool = False) -> list[Map]:
        """Return a graph's map of each window; states are carried in the graph's own precision."""
        session = open_session(model, self._threads, plain)
        return [self.feeding.result(session, window) for window in self.windows]

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
