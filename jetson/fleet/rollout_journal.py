"""Journal of a roll-out: a file of JSON lines with the outcome of each finished host."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError

SCHEMA = 1


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
        try:
            header_line, *lines = self._path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}; name another --state") from None
        except ValueError:
            raise self._invalid() from None
        try:
            header = json.loads(header_line)
            if header["schema"] != SCHEMA:
                raise self._invalid()
            if header["bundle"] != self._digest:
                raise InputError(
                    f"{self._path} is the journal of a roll-out of another bundle: name another --state"
                )
            for line in lines:
                row = json.loads(line)
                self._add(row.pop("host"), HostOutcome(**row))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._invalid() from None

    def _invalid(self) -> InputError:
        return InputError(f"{self._path} is not the journal of a roll-out: name another --state")
