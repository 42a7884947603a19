"""Interface of the storages of bags: topics, and the raw messages of a topic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from edge.core.foreign_text import printable

Messages = Iterator[tuple[int, bytes]]
"""Time of recording in nanoseconds, and the serialized message."""


class BagDamageError(Exception):
    """The rest of a bag cannot be read; the text says why."""


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag.

    Attributes:
        name: Name, such as `/camera/image_raw`.
        type: Type of its messages, such as `sensor_msgs/Image`.
        encoding: Serialization of its messages, such as `ros1`, `cdr` or `protobuf`.
        count: Number of its messages.
    """

    name: str
    type: str
    encoding: str
    count: int


class BagStorage(Protocol):
    """An open bag.

    Attributes:
        topics: The topics by name.
        damage: What cannot be read, one line each.
    """

    topics: dict[str, BagTopic]
    damage: list[str]

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic from a time on.

        Raises:
            BagDamageError: The rest cannot be read.
        """

    def close(self) -> None:
        """Close the files."""


@contextlib.contextmanager
def as_damage() -> Iterator[None]:
    """Translate what the readers raise for damaged files; they have no common exception."""
    try:
        yield
    except (BagDamageError, GeneratorExit):
        raise
    except Exception as error:
        raise BagDamageError(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """Return the text of an error as a part of a line."""
    return printable(str(error) or type(error).__name__, 160).rstrip(".")
