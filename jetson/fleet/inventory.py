"""A fleet in a TOML file: its hosts, in which rings they get a release, and what stops that.

    [defaults]                # options of aerogaze flash, for each host
    sudo = true
    [rollout]
    at-once = 32
    [[rings]]
    hosts = "10%"             # a number, a share of all hosts, or "all" that are left
    [hosts]
    "pilot@drone-7.local" = {}
    drone-8 = { address = "pilot@10.0.0.8:2222", root = "/data/aerogaze" }

Rings take hosts in the file's order. Paths begin at the file's folder.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml
from jetson.deploy.host import Host

PATHS = ("trust", "identity", "known-hosts")
"""Options that name files at the desk: from the inventory's folder on."""
RINGS: tuple[dict[str, Any], ...] = ({"hosts": 1}, {"hosts": "10%"}, {"hosts": "all"})


@dataclass(frozen=True)
class RolloutPolicy:
    """How a roll-out goes.

    `at_once`: hosts under way at a time. `tries`: of a host, while its faults may pass; `backoff_s`: the
    wait after the first, doubled after each. `limit_s`: the longest that one try may take.
    """

    at_once: int = 32
    tries: int = 5
    backoff_s: float = 2.0
    limit_s: float = 1800.0


@dataclass(frozen=True)
class Ring:
    """Hosts, by their names in the file, that get a release together. Shares are of these, 0 to 1.

    `number`: 1 for the first ring.
    `success`: the least for the next ring to start. `error`: once more than this failed, none is begun.
    """

    number: int
    hosts: Mapping[str, Host]
    success: float = 0.9
    error: float = 0.1


@dataclass(frozen=True)
class Inventory:
    """A fleet; every host is in one ring."""

    place: Path
    rings: tuple[Ring, ...]
    policy: RolloutPolicy

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All hosts, ring after ring."""
        return {name: host for ring in self.rings for name, host in ring.hosts.items()}


def load_inventory(place: Path) -> Inventory:
    """Read an inventory.

    Raises:
        InputError: it cannot be read, or says something that is none of this; the key is named.
    """
    document = read_toml(place, "an inventory in TOML")
    _known(place, "the inventory", document, {"defaults", "rollout", "rings", "hosts"})
    return Inventory(place, _rings(place, document, _hosts(place, document)), _pace(place, document))


def _hosts(place: Path, document: Mapping[str, Any]) -> dict[str, Host]:
    defaults = _options(place, "[defaults]", document.get("defaults", {}))
    table = document.get("hosts")
    if not isinstance(table, dict) or not table:
        raise InputError(f'{place} names no hosts; expected [hosts] with lines as "pilot@drone-7" = {{}}')
    hosts = {}
    seen: dict[str, str] = {}
    for name, given in table.items():
        if not name.strip():
            raise InputError(f"{place}: a host's name is {name!r}; expected one as drone-7")
        own = _options(place, f"host {name!r}", given, {"address"})
        try:
            host = Host(**{"address": name, **defaults, **own})
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if host.login is None:
            host = dataclasses.replace(host, address=str(place.parent / host.address))
        if host.place in seen:
            raise InputError(f"{place}: {name!r} and {seen[host.place]!r} are one board: name it once")
        seen[host.place] = name
        hosts[name] = host
    return hosts


def _options(place: Path, what: str, given: Any, more: Set[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{place}: {what} is {given!r}; expected a table of options, as {{}}")
    kinds = {field.name.replace("_", "-"): field for field in dataclasses.fields(Host)}
    _known(place, what, given, set(kinds) - {"address"} | more)
    options: dict[str, Any] = {}
    for key, value in given.items():
        flag = str(kinds[key].type).startswith("bool")
        if not isinstance(value, bool if flag else str) or value == "":
            raise InputError(
                f"{place}: {what}: {key} is {value!r}; expected {'true or false' if flag else 'text'}"
            )
        if key in PATHS:
            try:
                value = place.parent / Path(str(value)).expanduser()
            except RuntimeError:  # ~ of nobody
                raise InputError(f"{place}: {what}: {key} is {value!r}: there is no such user") from None
        options[kinds[key].name] = Path(str(value)) if key == "root" else value
    return options


def _pace(place: Path, document: Mapping[str, Any]) -> RolloutPolicy:
    given = document.get("rollout", {})
    most = {"at-once": 1024, "tries": 100, "backoff-s": 300.0, "limit-s": 86400.0}
    _known(place, "[rollout]", given, set(most))
    for key, value in given.items():
        whole = isinstance(most[key], int)
        kinds = int if whole else (int, float)
        least = 1 if whole else 0
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most[key]:
            raise InputError(
                f"{place}: [rollout] {key} is {value!r}; expected a {'whole ' if whole else ''}number, "
                f"{least} to {most[key]:g}"
            )
    return RolloutPolicy(**{key.replace("-", "_"): value for key, value in given.items()})


def _rings(place: Path, document: Mapping[str, Any], hosts: dict[str, Host]) -> tuple[Ring, ...]:
    tables = document.get("rings", list(RINGS))
    if not isinstance(tables, list) or not tables:
        raise InputError(f'{place}: rings is {tables!r}; expected [[rings]] with hosts = 1, "10%" or "all"')
    rings, left = [], list(hosts)
    for number, table in enumerate(tables, start=1):
        what = f"ring {number}"
        _known(place, what, table, {"hosts", "success", "error"})
        count = _count(place, what, table.get("hosts"), len(hosts))
        shares = {key: _share(place, f"{what}: {key}", table[key]) for key in set(table) - {"hosts"}}
        if left:
            taken = {name: hosts[name] for name in left[:count]}
            rings.append(Ring(number, taken, **shares))
        left = left[count:]
    if left:
        raise InputError(f'{place}: the rings leave {len(left)} hosts out; end with one of hosts = "all"')
    return tuple(rings)


def _count(place: Path, what: str, value: Any, of: int) -> int:
    if value == "all":
        return of
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and value.endswith("%") and (share := _share(place, what, value)):
        return math.ceil(round(share * of, 6))
    raise InputError(f'{place}: {what} has hosts = {value!r}; expected a number, a share as "10%", or "all"')


def _share(place: Path, what: str, value: Any) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", value) if isinstance(value, str) else None
    if match is None or float(match.group(1)) > 100:
        raise InputError(f'{place}: {what} is {value!r}; expected a share as "10%"')
    return float(match.group(1)) / 100


def _known(place: Path, what: str, given: Any, known: set[str]) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{place}: {what} is {given!r}; expected a table")
    strange = sorted(set(given) - known)
    if strange:
        raise InputError(
            f"{place}: {what} has an unknown key {strange[0]!r}; expected some of {', '.join(sorted(known))}"
        )
