"""SQLite files of ROS 2 bags, which need no metadata and may be damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.sources.bags.storage import BagTopic, Messages, as_damage


class SqliteStorage:
    """One SQLite file of a ROS 2 bag; it needs no metadata, and may be damaged.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.damage: list[str] = []
        self._path = path
        # Immutable: on a read-only disk SQLite cannot create its lock files. But SQLite then ignores
        # the log that a killed recorder leaves next to the file and that holds the latest messages.
        mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", uri=True, check_same_thread=False
        )
        # Otherwise SQLite refuses a file that is shorter than it should be.
        self._connection.execute("PRAGMA writable_schema = ON")
        try:
            self._ids, self.topics = self._read_topics()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InputError(f"{path} has no topics that can be read ({error}): copy the bag again") from None

    def _read_topics(self) -> tuple[dict[str, int], dict[str, BagTopic]]:
        ids, topics = {}, {}
        rows = self._connection.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id")
        for number, *texts in rows.fetchall():
            if not all(isinstance(text, str) for text in texts):
                self._report("a topic without name or type")
                continue
            name, type_, encoding = texts
            ids[name] = number
            topics[name] = BagTopic(name, type_, encoding, self._count(number))
        return ids, topics

    def _count(self, number: int) -> int:
        query = "SELECT count(*) FROM messages WHERE topic_id = ?"
        try:
            return int(self._connection.execute(query, (number,)).fetchone()[0])
        except sqlite3.DatabaseError as error:
            self._report(error)
        count = 0
        with contextlib.suppress(sqlite3.DatabaseError):  # the rows before the damage
            for _ in self._connection.execute(
                "SELECT id FROM messages NOT INDEXED WHERE topic_id = ?", (number,)
            ):
                count += 1
        return count

    def _report(self, error: object) -> None:
        line = f"{printable(self._path.name)} is damaged ({error}): the rows before are read"
        if line not in self.damage:
            self.damage.append(line)

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic; from a damaged file, in the order of their rows."""
        source, order = ("messages NOT INDEXED", "id") if self.damage else ("messages", "timestamp, id")
        columns, condition = "SELECT timestamp, data FROM", "WHERE topic_id = ? AND timestamp >= ? ORDER BY"
        query = f"{columns} {source} {condition} {order}"
        with as_damage():
            yield from self._connection.execute(query, (self._ids[topic], start_ns))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
