"""Journal of a roll-out: a file of JSON lines with the outcome of each finished host."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import is_missing, parse_json, read_bytes

SCHEMA = 1
MAX_JOURNAL_BYTES = 64 << 20
"""Some ten thousand hosts with the longest reasons."""


@dataclass(frozen=True)
class HostOutcome:
    """Outcome of a finished host. The fields are the keys of a line in the journal.

    Attributes:
        place: Key of the board, as `Host.board_key`: shows whether the name means another board now.
        done: True if the board flies the bundle, False if it failed.
        why: Reason for the precision, or the error.
        precision: Precision that the board chose; None if it failed.
        tries: Number of attempts.
        seconds: Duration of all attempts, with the waits between them.
        ended_at: Unix time of the end in seconds.
    """

    place: str
    done: bool
    why: str
    precision: str | None
    tries: int
    seconds: float
    ended_at: int


class RolloutJournal(Mapping[str, HostOutcome]):
    """Outcomes by host name, for one bundle. A host that is not in the journal is not finished.

    Args:
        path: The file; it may not exist yet.
        digest: SHA-256 of the bundle.

    Raises:
        InputError: The file belongs to another bundle, is not a journal, or cannot be read.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self._digest = digest
        self._outcomes: dict[str, HostOutcome] = {}
        self._lines: dict[str, str] = {}
        self._read()

    def __getitem__(self, host: str) -> HostOutcome:
        return self._outcomes[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outcomes)

    def __len__(self) -> int:
        return len(self._outcomes)

    def record(self, host: str, outcome: HostOutcome) -> None:
        """Add the outcome of a host, and write the file."""
        self._add(host, outcome)
        self._write()

    def forget(self, hosts: Iterable[str]) -> None:
        """Remove the outcomes of hosts, so that they are tried again."""
        for host in hosts:
            del self._outcomes[host], self._lines[host]
        self._write()

    def _add(self, host: str, outcome: HostOutcome) -> None:
        self._outcomes[host] = outcome
        self._lines[host] = json.dumps({"host": host, **dataclasses.asdict(outcome)})

    def _write(self) -> None:
        # Replaced by rename, without fsync: a power cut may lose outcomes. Their hosts are then tried again,
        # and a board that has the bundle already answers at once.
        header = json.dumps({"schema": SCHEMA, "bundle": self._digest})
        with atomic_file(self._path) as path:
            path.write_text("\n".join([header, *self._lines.values(), ""]), "utf-8")

    def _read(self) -> None:
        if is_missing(self._path):
            return
        data = read_bytes(self._path, MAX_JOURNAL_BYTES, "the journal of a roll-out; name another --state")
        try:
            header_line, *lines = data.decode("utf-8").splitlines()
            header = parse_json(header_line)
            if header["schema"] != SCHEMA:
                raise self._invalid()
            if header["bundle"] != self._digest:
                raise InputError(
                    f"{self._path} is the journal of a roll-out of another bundle: name another --state"
                )
            for line in lines:
                row = parse_json(line)
                self._add(_check_text(row.pop("host")), _check_outcome(HostOutcome(**row)))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._invalid() from None

    def _invalid(self) -> InputError:
        return InputError(f"{self._path} is not the journal of a roll-out: name another --state")


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _check_outcome(outcome: HostOutcome) -> HostOutcome:
    """Return an outcome whose values have the types that the journal writes.

    Raises:
        TypeError: A value has another type.
    """
    for text in (outcome.place, outcome.why, outcome.precision or ""):
        _check_text(text)
    numbers = (outcome.tries, outcome.seconds, outcome.ended_at)
    if type(outcome.done) is not bool or not all(type(number) in (int, float) for number in numbers):
        raise TypeError("a value is no number")
    return outcome
