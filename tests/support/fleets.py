"""Fleets of folders that stand in for boards, some with faults, and what a roll-out needs besides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
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
from jetson.signing import canonical_json
from jetson.signing.keys import SigningKey, generate_key
from jetson.signing.trust import make_trust
from tests.support.disks import FakeBackend

ORIN_NANO = Compatibility(boards=("orin-nano",))
NANO_FACTS = BoardFacts("NVIDIA Jetson Orin Nano", "orin-nano", "8.7", None, None, None, None, {})


def make_first_board(root: Path, bundle: Path, key: SigningKey) -> Path:
    """Make a board that flies a bundle already, to be copied."""
    board = DeviceBoard(root, NANO_FACTS, FakeBackend(), parse_policy("fastest"), NoService())
    board.set_trust(make_trust([key.public_key]), None)
    install(board, bundle, NoAutopilot())
    (root / "lock").unlink()  # the copies are hard links, but each board needs a lock of its own
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text(f"{NANO_FACTS.model}\0")
    return root


def copy_boards(folder: Path, first_board: Path, count: int) -> list[str]:
    """Copy a board `count` times, and return the names. Files are hard links: boards only replace files."""
    names = [f"boards/{number:04}" for number in range(1, count + 1)]
    for name in names:
        shutil.copytree(first_board, folder / name, copy_function=os.link)
    return names


def write_inventory(
    folder: Path, names: Iterable[str], text: str = "", options: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write an inventory of hosts.

    Args:
        folder: Folder of the file.
        names: Names of the hosts.
        text: TOML before the hosts.
        options: TOML with the options of a host, by name.
    """
    path = folder / "fleet.toml"
    hosts = [f'"{name}" = {{ {options.get(name, "")} }}' for name in names]
    path.write_text("\n".join([text, "[hosts]", *hosts, ""]))
    return path


def _replace(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # it may be a hard link
    path.write_bytes(data)


def _write_config(**config: object) -> Callable[[Path], None]:
    return lambda root: _replace(root / "config.json", json.dumps(config).encode())


def _trust_another_key(root: Path) -> None:
    trust = make_trust([generate_key(root / "theirs").public_key])
    _replace(root / "trust.json", canonical_json.encode(trust.to_dict()))


UNHEALTHY_SERVICE = {"restart": ["true"], "health": ["false"], "watch_s": 0.2, "every_s": 0.05}
FAULTS: dict[str, Callable[[Path], None]] = {
    "the bundle is for board orin-nano; here is agx-orin": lambda root: _replace(
        root / "proc/device-tree/model", b"NVIDIA Jetson AGX Orin Developer Kit\0"
    ),
    "trusts none of the keys that signed": _trust_another_key,
    "no precision may fly on this board (int8: cc": _write_config(policy="closest within cc>=.999999"),
    "did not stay healthy": _write_config(service=UNHEALTHY_SERVICE),
    "is not the canonical JSON": lambda root: _replace(root / "state.json", b"{}"),
}
"""Functions that give a board a fault, by a part of the error message."""


def inject_faults(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Give each of the boards a fault, in turn; return a part of its error message, by name."""
    messages = {}
    for number, name in enumerate(names):
        message, inject = list(FAULTS.items())[number % len(FAULTS)]
        inject(folder / name)
        messages[name] = message
    return messages


def current_counter(root: Path) -> int | None:
    """Return the counter of the release that a board flies; None if it has none."""
    slot = load_state(root).current_slot
    return slot.counter if slot else None


def make_fleet(
    folder: Path, release: Path, count: int, fault_interval: int = 20, rings: str = ""
) -> tuple[list[str | Path], dict[str, str]]:
    """Make a fleet in which one board of `fault_interval` has a fault.

    Args:
        folder: Folder of the fleet.
        release: Release of both bundles.
        count: Number of boards.
        fault_interval: One of so many boards has a fault.
        rings: TOML of the rings; empty for the default ones.

    Returns:
        Arguments of the command that rolls out the next release, and the error messages of the faults.
    """
    key = generate_key(folder / "k")
    for number in (1, 2):
        metadata = BundleMetadata(counter=number, compatible=ORIN_NANO)
        write_bundle(release, [key], metadata, folder / f"b{number}.swu")
    names = copy_boards(folder, make_first_board(folder / "first", folder / "b1.swu", key), count)
    faults = inject_faults(folder, names[fault_interval // 2 :: fault_interval])
    return [
        "fleet",
        folder / "b2.swu",
        write_inventory(folder, names, rings),
        "--out",
        folder / "report.json",
    ], faults


def aerogaze_command(*arguments: str | Path) -> list[str]:
    """Return the command line that runs aerogaze in a process of its own."""
    return [sys.executable, "-m", "edge.cli.main", *map(str, arguments)]


def measure_memory(command: list[str]) -> tuple[int, float, float]:
    """Run a command, and measure its memory every 0.1 s.

    Returns:
        Exit code, duration in seconds, and the highest memory of it and its children in MB. What they
        share, such as libraries, counts once.
    """
    started, peak_mb = time.monotonic(), 0.0
    with open(os.devnull, "w") as null:
        process = subprocess.Popen(command, stdout=null, stderr=null)
        while process.poll() is None:
            peak_mb = max(peak_mb, _memory_mb(process.pid))
            time.sleep(0.1)
    return process.returncode, time.monotonic() - started, peak_mb


def _memory_mb(pid: int) -> float:
    """Return the memory of a process and its children; what n of them share counts a n-th in each."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # the process has ended
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    todo, total_kib = [pid], 0
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib * 1024 / 1e6
