"""Fleets of folders: boards that fly a release, some with a fault of their own; and what a roll-out needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from edge.hardware.board import BoardFacts
from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.bundle.manifest import Compatibility
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.install import install
from jetson.device.precision_policy import parse_policy
from jetson.device.service import NoService
from jetson.device.slot_state import load_state
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import SigningKey, generate_key
from jetson.signing.trust import make_trust
from tests.support.disks import FakeBackend

ORIN_NANO = Compatibility(boards=("orin-nano",))
NANO = BoardFacts("NVIDIA Jetson Orin Nano", "orin-nano", "8.7", None, None, None, None, {})


def first_board(root: Path, bundle: Path, key: SigningKey) -> Path:
    """Make a board that flies a bundle already, to be copied."""
    board = DeviceBoard(root, NANO, FakeBackend(), parse_policy("fastest"), NoService())
    board.set_trust(make_trust([key.public_key]), None)
    install(board, bundle, NoAutopilot())
    (root / "lock").unlink()  # each board has its own
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text(f"{NANO.model}\0")
    return root


def boards(folder: Path, first: Path, count: int) -> list[str]:
    """Copy a board, its files as links, which a board never writes through; return the names."""
    names = [f"boards/{number:04}" for number in range(1, count + 1)]
    for name in names:
        shutil.copytree(first, folder / name, copy_function=os.link)
    return names


def inventory(
    folder: Path, names: Iterable[str], text: str = "", options: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write an inventory of hosts, with more text before them, and options as TOML has them."""
    place = folder / "fleet.toml"
    hosts = [f'"{name}" = {{ {options.get(name, "")} }}' for name in names]
    place.write_text("\n".join([text, "[hosts]", *hosts, ""]))
    return place


def _put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # it is a link, perhaps
    path.write_bytes(data)


def _config(**config: object) -> Callable[[Path], None]:
    return lambda root: _put(root / "config.json", json.dumps(config).encode())


def _another_key(root: Path) -> None:
    trust = make_trust([generate_key(root / "theirs").public_key])
    _put(root / "trust.json", canonical.encode(trust.to_dict()))


UNHEALTHY = {"restart": ["true"], "health": ["false"], "watch_s": 0.2, "every_s": 0.05}
FAULTS: dict[str, Callable[[Path], None]] = {
    "the bundle is for board orin-nano; here is agx-orin": lambda root: _put(
        root / "proc/device-tree/model", b"NVIDIA Jetson AGX Orin Developer Kit\0"
    ),
    "trusts none of the keys that signed": _another_key,
    "no precision may fly on this board (int8: cc": _config(policy="closest within cc>=.999999"),
    "did not stay healthy": _config(service=UNHEALTHY),
    "is not the canonical JSON": lambda root: _put(root / "state.json", b"{}"),
}
"""What goes wrong, by the words in which it is told, and how a board comes to it."""


def spoil(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Give boards a fault each, in turns; return by name the words in which it is told."""
    told = {}
    for number, name in enumerate(names):
        words, fault = list(FAULTS.items())[number % len(FAULTS)]
        fault(folder / name)
        told[name] = words
    return told


def counter(root: Path) -> int | None:
    """What a board flies."""
    flown = load_state(root).current_slot
    return flown.counter if flown else None


def simulation(folder: Path, release: Path, count: int) -> tuple[list[str | Path], dict[str, str]]:
    """Make a fleet of which each 20th board has a fault; return the words of the command, and the faults."""
    key = generate_key(folder / "k")
    for number in (1, 2):
        wishes = BundleMetadata(counter=number, compatible=ORIN_NANO)
        write_bundle(release, [key], wishes, folder / f"b{number}.swu")
    names = boards(folder, first_board(folder / "first", folder / "b1.swu", key), count)
    faults = spoil(folder, names[10::20])
    return ["fleet", folder / "b2.swu", inventory(folder, names), "--out", folder / "report.json"], faults


def command(*words: str | Path) -> list[str]:
    """Return the words that start aerogaze in a process of its own."""
    return [sys.executable, "-m", "edge.cli.main", *map(str, words)]


def most_memory(words: list[str]) -> tuple[int, float, float]:
    """Run a command; return its exit code, its seconds, and the most MB that it and its children held.

    Resident memory of each process is added up, though they share libraries: an upper bound.
    """
    begun, most = time.monotonic(), 0.0
    with open(os.devnull, "w") as null:
        process = subprocess.Popen(words, stdout=null, stderr=null)
        while process.poll() is None:
            most = max(most, _resident_mb(process.pid))
            time.sleep(0.1)
    return process.returncode, time.monotonic() - begun, most


def _resident_mb(pid: int) -> float:
    children: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    todo, total = [pid], 0
    while todo:
        one = todo.pop()
        total += pages.get(one, 0)
        todo += children.get(one, [])
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6
