"""The simulated world as a source: `synthetic:[KIND:]SEED[:WIDTHxHEIGHT[:FRAMES]]`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.simulation.kinds.catalogue import KINDS
from edge.simulation.world import World

PATTERN = re.compile(
    r"synthetic:(?:([a-z-]+):)?([0-9]{1,18})(?::([0-9]{1,6})x([0-9]{1,6})(?::([0-9]{1,9}))?)?"
)
MIN_SIDE, MAX_SIDE = 64, 4096


class SyntheticSource:
    """A flight over a simulated world, at 10 frames per second."""

    def __init__(
        self, seed: int, width: int = 640, height: int = 360, frames: int = 100, kind: str = ""
    ) -> None:
        self.name = f"synthetic:{kind and f'{kind}:'}{seed}:{width}x{height}:{frames}"
        self.width, self.height, self.fps = width, height, 10.0
        self.length: int | None = frames
        self._world = World(seed, width, height, self.fps, kind=kind)

    @classmethod
    def parse(cls, name: str) -> SyntheticSource:
        """Open the source with this name.

        Raises:
            InputError: The name has another form, there is no such kind of scene, a side is not from 64 to
                4096 pixels, or there are no frames.
        """
        match = PATTERN.fullmatch(name)
        if match is None:
            raise InputError(
                f"{name!r} is no synthetic source; expected synthetic:[KIND:]SEED[:WIDTHxHEIGHT[:FRAMES]]"
            )
        kind, *numbers = match.groups()
        if kind and kind not in KINDS:
            raise InputError(f"{name!r}: no kind of scene {kind!r}; expected one of {', '.join(KINDS)}")
        seed, width, height, frames = (
            int(value or default) for value, default in zip(numbers, (0, 640, 360, 100), strict=True)
        )
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
            raise InputError(f"{name!r}: sides must be between {MIN_SIDE} and {MAX_SIDE} pixels")
        if frames == 0:
            raise InputError(f"{name!r} has no frames; expected at least one")
        return cls(seed, width, height, frames, kind or "")

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames of the flight."""
        for index in range(self.length or 0):
            yield Frame(index, index / self.fps, self._world.frame(index).image)

    def close(self) -> None:
        """Do nothing: no file is held open."""
