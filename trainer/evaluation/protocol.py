"""Protocol of `aerogaze quality`: which sequences share a place, and which views hold no target.

It is the data of protocol.toml; docs/explanation/protocol.md says what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.toml_reader import read_toml

PROTOCOL_FILE = Path(__file__).with_name("protocol.toml")
DEFAULT_FPS = 10.0
Window = tuple[float, float, float, float]
"""Left, top, width and height as shares of the frame."""


@dataclass(frozen=True)
class Place:
    """Sequences that are tuned on together, or left out together.

    Attributes:
        name: Name of the place.
        what: What is seen there.
        sequences: Folders of the sequences, relative to the folder of the data.
        fps: Frames per second of its sequences.
    """

    name: str
    what: str
    sequences: tuple[str, ...]
    fps: float


@dataclass(frozen=True)
class EmptyView:
    """Window of a sequence without a target; `place` is that of its sequence."""

    name: str
    sequence: str
    window: Window
    place: Place


@dataclass(frozen=True)
class Protocol:
    """Places and views without targets."""

    places: tuple[Place, ...]
    empty_views: tuple[EmptyView, ...]


def load_protocol(path: Path = PROTOCOL_FILE) -> Protocol:
    """Read a protocol.

    Raises:
        KeyError: A key is missing, or a view is of a sequence that no place has.
        InputError: The file is no TOML.
    """
    document = read_toml(path, "a protocol of aerogaze quality")
    places = tuple(
        Place(row["name"], row["what"], tuple(row["sequences"]), float(row.get("fps", DEFAULT_FPS)))
        for row in document["places"]
    )
    place_of = {sequence: place for place in places for sequence in place.sequences}
    views = tuple(
        EmptyView(row["name"], row["sequence"], tuple(row["window"]), place_of[row["sequence"]])
        for row in document["empty"]
    )
    return Protocol(places, views)
