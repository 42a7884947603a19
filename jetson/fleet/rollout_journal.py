"""How a roll-out went on each host so far: one small file of JSON lines, written by rename after each."""

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
    """How a host ended. `place`: its board's, as `Host.place`; `why`: of its precision, or what failed;
    `ended_at`: seconds since 1970.
    """

    place: str
    done: bool
    why: str
    precision: str | None
    tries: int
    seconds: float
    ended_at: int


class RolloutJournal(Mapping[str, HostOutcome]):
    """Outcomes by host, of one bundle; a host that is not in it is still to do.

    Raises:
        InputError: the file is another bundle's or somebody else's, or cannot be written.
    """

    def __init__(self, place: Path, digest: str) -> None:
        self._place = place
        self._head = json.dumps({"schema": SCHEMA, "bundle": digest})
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
        """Put how a host ended on the disk."""
        self._keep(host, outcome)
        self._save()

    def forget(self, hosts: Iterable[str]) -> None:
        """Let hosts be tried again."""
        for host in hosts:
            del self._outcomes[host], self._lines[host]
        self._save()

    def _keep(self, host: str, outcome: HostOutcome) -> None:
        self._outcomes[host] = outcome
        self._lines[host] = json.dumps({"host": host, **dataclasses.asdict(outcome)})

    def _save(self) -> None:
        # Safe from kills without fsync. What a power cut loses is done again, and boards know what they fly.
        with atomic_file(self._place) as path:
            path.write_text("\n".join([self._head, *self._lines.values(), ""]), "utf-8")

    def _read(self) -> None:
        try:
            head, *rows = self._place.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"cannot read {self._place}: {error.strerror}; name another --state") from None
        except ValueError:
            raise self._strange() from None
        try:
            found, ours = json.loads(head), json.loads(self._head)
            if found["schema"] != ours["schema"]:
                raise self._strange()
            if found["bundle"] != ours["bundle"]:
                raise InputError(
                    f"{self._place} is the state of another bundle's roll-out: name another --state"
                )
            for line in rows:
                row = json.loads(line)
                self._keep(row.pop("host"), HostOutcome(**row))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._strange() from None

    def _strange(self) -> InputError:
        return InputError(f"{self._place} is no state of a roll-out: name another --state")
