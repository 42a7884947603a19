"""Inventory of a fleet: a TOML file with its hosts, the rings in which they are updated, and the limits.

    [defaults]                # options of aerogaze flash for all hosts
    sudo = true
    [rollout]
    at-once = 32
    [[rings]]
    hosts = "10%"             # a number, a share of all hosts, or "all" remaining hosts
    [hosts]
    "pilot@drone-7.local" = {}
    drone-8 = { address = "pilot@10.0.0.8:2222", root = "/data/aerogaze" }

Rings take hosts in the order of the file. Relative paths start at the folder of the file.
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
from jetson.deploy.host import Host, check_folder
from jetson.deploy.ssh_target import parse_login

PATH_OPTIONS = ("trust", "identity", "known-hosts")
"""Options that name files at the desk, relative to the inventory's folder."""
DEFAULT_RINGS: tuple[dict[str, Any], ...] = ({"hosts": 1}, {"hosts": "10%"}, {"hosts": "all"})
ROLLOUT_MAXIMA: Mapping[str, int | float] = {
    "at-once": 1024, "tries": 100, "backoff-s": 300.0, "limit-s": 86400.0,
}  # fmt: skip
"""Largest values of the keys of [rollout]. The keys with an int here accept whole numbers only."""


@dataclass(frozen=True)
class RolloutPolicy:
    """Limits of a roll-out. The fields, written with hyphens, are the keys of [rollout].

    Attributes:
        at_once: How many hosts are updated at the same time.
        tries: Attempts per host, as long as its errors are transient.
        backoff_s: Wait in seconds after the first attempt; it doubles after each further one.
        limit_s: Longest duration of one attempt in seconds.
    """

    at_once: int = 32
    tries: int = 5
    backoff_s: float = 2.0
    limit_s: float = 1800.0


@dataclass(frozen=True)
class Ring:
    """Hosts that are updated together, before those of the next ring.

    Attributes:
        number: Number of the ring; the first is 1.
        hosts: Hosts by their names in the file.
        success: Lowest share (0 to 1) of updated hosts with which the next ring starts.
        error: Highest share (0 to 1) of failed hosts; above it no further host is started.
    """

    number: int
    hosts: Mapping[str, Host]
    success: float = 0.9
    error: float = 0.1


@dataclass(frozen=True)
class Inventory:
    """A fleet; each host is in exactly one ring."""

    path: Path
    rings: tuple[Ring, ...]
    policy: RolloutPolicy

    @property
    def hosts(self) -> Mapping[str, Host]:
        """All hosts by name, in the order of the rings."""
        return {name: host for ring in self.rings for name, host in ring.hosts.items()}


def load_inventory(path: Path) -> Inventory:
    """Read an inventory.

    Raises:
        InputError: The file cannot be read, or a key or value is invalid; the error names the key.
    """
    document = read_toml(path, "an inventory in TOML")
    _check_keys(path, "the inventory", document, {"defaults", "rollout", "rings", "hosts"})
    hosts = _parse_hosts(path, document)
    return Inventory(path, _parse_rings(path, document, hosts), _parse_policy(path, document))


def _parse_hosts(path: Path, document: Mapping[str, Any]) -> dict[str, Host]:
    defaults = _parse_options(path, "[defaults]", document.get("defaults", {}))
    table = document.get("hosts")
    if not isinstance(table, dict) or not table:
        raise InputError(
            f'{path} names no hosts; expected a table [hosts] with lines such as "pilot@drone-7" = {{}}'
        )
    hosts = {}
    names_by_board: dict[str, str] = {}
    for name, value in table.items():
        if not name.strip():
            raise InputError(f"{path}: the name of a host is {name!r}; expected a name such as drone-7")
        options = _parse_options(path, f"host {name!r}", value, {"address"})
        try:
            host = Host(**_resolve_folder(path, {"address": name, **defaults, **options}))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if host.board_key in names_by_board:
            raise InputError(
                f"{path}: {name!r} and {names_by_board[host.board_key]!r} are the same board: name it once"
            )
        names_by_board[host.board_key] = name
        hosts[name] = host
    return hosts


def _resolve_folder(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a host; a folder gets its path from the inventory's folder.

    Raises:
        InputError: The address is neither an SSH login nor a folder.
    """
    address = options["address"]
    if not options.get("folder"):
        if parse_login(address):
            return options
        check_folder(address, path.parent)  # here, because `Host` starts at the working directory
    return {**options, "address": str(path.parent / address), "folder": True}


def _parse_options(path: Path, where: str, table: Any, extra_keys: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the options of a host, or the defaults of all, as arguments of `Host`."""
    if not isinstance(table, dict):
        raise InputError(f"{path}: {where} is {table!r}; expected a table of options, such as {{}}")
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(Host)}
    _check_keys(path, where, table, set(fields) - {"address"} | extra_keys)
    options: dict[str, Any] = {}
    for key, value in table.items():
        is_flag = str(fields[key].type).startswith("bool")
        if not isinstance(value, bool if is_flag else str) or value == "":
            expected = "true or false" if is_flag else "text"
            raise InputError(f"{path}: {where}: {key} is {value!r}; expected {expected}")
        if key in PATH_OPTIONS:
            try:
                value = path.parent / Path(str(value)).expanduser()
            except RuntimeError:  # ~name of a user that does not exist
                raise InputError(
                    f"{path}: {where}: {key} is {value!r}, but there is no such user; expected a path"
                ) from None
        options[fields[key].name] = Path(str(value)) if key == "root" else value
    return options


def _parse_policy(path: Path, document: Mapping[str, Any]) -> RolloutPolicy:
    table = document.get("rollout", {})
    _check_keys(path, "[rollout]", table, set(ROLLOUT_MAXIMA))
    for key, value in table.items():
        maximum = ROLLOUT_MAXIMA[key]
        is_whole = isinstance(maximum, int)
        types = int if is_whole else (int, float)
        minimum = 1 if is_whole else 0
        if isinstance(value, bool) or not isinstance(value, types) or not minimum <= value <= maximum:
            raise InputError(
                f"{path}: [rollout] {key} is {value!r}; expected a {'whole ' if is_whole else ''}number, "
                f"{minimum} to {maximum:g}"
            )
    return RolloutPolicy(**{key.replace("-", "_"): value for key, value in table.items()})


def _parse_rings(path: Path, document: Mapping[str, Any], hosts: dict[str, Host]) -> tuple[Ring, ...]:
    tables = document.get("rings", list(DEFAULT_RINGS))
    if not isinstance(tables, list) or not tables:
        raise InputError(f'{path}: rings is {tables!r}; expected [[rings]] with hosts = 1, "10%" or "all"')
    rings, remaining = [], list(hosts)
    for number, table in enumerate(tables, start=1):
        where = f"ring {number}"
        _check_keys(path, where, table, {"hosts", "success", "error"})
        count = _parse_host_count(path, where, table.get("hosts"), len(hosts))
        shares = {key: _parse_share(path, f"{where}: {key}", table[key]) for key in set(table) - {"hosts"}}
        if remaining:
            ring_hosts = {name: hosts[name] for name in remaining[:count]}
            rings.append(Ring(number, ring_hosts, **shares))
        remaining = remaining[count:]
    if remaining:
        raise InputError(f'{path}: {len(remaining)} hosts are in no ring; add a last ring with hosts = "all"')
    return tuple(rings)


def _parse_host_count(path: Path, where: str, value: Any, total: int) -> int:
    if value == "all":
        return total
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and value.endswith("%") and (share := _parse_share(path, where, value)):
        # Rounded first: as a float, 7 % of 100 is 7.000000000000001, which is not 8 hosts.
        return math.ceil(round(share * total, 6))
    raise InputError(
        f'{path}: {where} has hosts = {value!r}; expected a number, a share such as "10%", or "all"'
    )


def _parse_share(path: Path, where: str, value: Any) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", value) if isinstance(value, str) else None
    if match is None or float(match.group(1)) > 100:
        raise InputError(f'{path}: {where} is {value!r}; expected a share such as "10%"')
    return float(match.group(1)) / 100


def _check_keys(path: Path, where: str, table: Any, known: set[str]) -> None:
    """Check that a value is a table with known keys only."""
    if not isinstance(table, dict):
        raise InputError(f"{path}: {where} is {table!r}; expected a table")
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(
            f"{path}: {where} has an unknown key {unknown[0]!r}; expected some of {', '.join(sorted(known))}"
        )
