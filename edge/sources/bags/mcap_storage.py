"""MCAP files, read by `mcap`: by their index, or from the start up to the damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.sources.bags.storage import BagDamageError, BagStorage, BagTopic, Messages, as_damage

if TYPE_CHECKING:
    from mcap.records import Channel, Message, Schema

MAX_RECORD_BYTES = 1 << 30
"""Larger records are taken for damage, not for data."""


def open_mcap(path: Path) -> BagStorage:
    """Open an MCAP file."""
    from mcap.reader import SeekingReader

    with path.open("rb") as file, suppress(Exception):  # a damaged file raises anything
        summary = SeekingReader(file, record_size_limit=MAX_RECORD_BYTES).get_summary()
        if summary is not None and summary.statistics is not None and summary.chunk_indexes:
            return IndexedMcapStorage(path)
    return ScannedMcapStorage(path)


class IndexedMcapStorage:
    """An MCAP file with an index.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        from mcap.reader import SeekingReader

        self.damage: list[str] = []
        self._file = path.open("rb")
        self._reader = SeekingReader(self._file, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES)
        summary = self._reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        counts = summary.statistics.channel_message_counts
        self.topics = _topics(
            (channel, summary.schemas.get(channel.schema_id), counts.get(number, 0))
            for number, channel in summary.channels.items()
        )

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic."""
        with as_damage():
            for _, _, message in self._reader.iter_messages([topic], starting_at=start_ns):
                yield message.log_time, message.data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ScannedMcapStorage:
    """An MCAP file without an index, or one that was cut off; it is read from its start.

    Args:
        path: The file.

    Raises:
        InputError: There is no whole message.
    """

    def __init__(self, path: Path) -> None:
        self.damage: list[str] = []
        self._path = path
        found: dict[int, tuple[Channel, Schema | None, int]] = {}
        try:
            for channel, schema, _ in self._scan():
                count = found[channel.id][2] if channel.id in found else 0
                found[channel.id] = channel, schema, count + 1
        except BagDamageError as error:
            self.damage.append(
                f"{printable(path.name)} is cut off or damaged ({error}): the messages before are read"
            )
        if not found:
            raise InputError(f"{path} has no whole message; expected an MCAP file: copy it again")
        self.topics = _topics(iter(found.values()))

    def _scan(self) -> Iterator[tuple[Channel, Schema | None, Message]]:
        from mcap.records import Channel, Message, Schema
        from mcap.stream_reader import StreamReader

        channels: dict[int, Channel] = {}
        schemas: dict[int, Schema] = {}
        with as_damage(), self._path.open("rb") as file:
            for record in StreamReader(file, validate_crcs=True, record_size_limit=MAX_RECORD_BYTES).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message):
                    channel = channels[record.channel_id]
                    yield channel, schemas.get(channel.schema_id), record

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic in the order of the file, up to the damage that is already known."""
        with suppress(BagDamageError):
            for channel, _, message in self._scan():
                if channel.topic == topic and message.log_time >= start_ns:
                    yield message.log_time, message.data

    def close(self) -> None:
        """Do nothing: no file is held open."""


def _topics(channels: Iterator[tuple[Channel, Schema | None, int]]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for channel, schema, count in channels:
        known = topics[channel.topic].count if channel.topic in topics else 0
        type_ = schema.name if schema is not None else "no type"
        topics[channel.topic] = BagTopic(channel.topic, type_, channel.message_encoding, known + count)
    return topics
