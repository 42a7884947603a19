"""Boards with fake engines, and a small release to install on them."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from edge.hardware.board import BoardFacts, read_board_facts
from edge.release.manifest import load_release, locate_release, save_release
from edge.release.release import GOLDEN_FILE
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.durable_disk import DurableDisk
from jetson.device.install import install
from jetson.device.precision_policy import parse_policy
from jetson.device.service import NoService
from jetson.device.slot_state import BoardState
from tests.support.disks import FakeBackend

ORIN = BoardFacts("NVIDIA Jetson Orin Nano", "orin-nano", "8.7", "36.4.3", "6.2", "10.3.0", None, {})
START_2026 = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()


def copy_release(folder: Path, *precisions: str, name: str = "skd-64", student: Path | None = None) -> Path:
    """Copy a shipped release with only these precisions and the first two frames of its golden set."""
    shutil.copytree(locate_release(student), folder)
    release = load_release(folder)
    kept = tuple(g for g in release.graphs if g.precision in precisions and g.engine != "tensorrt")
    for graph in {*release.graphs} - {*kept}:
        (folder / graph.file).unlink()
    frames, maps = release.load_golden()
    np.savez_compressed(folder / GOLDEN_FILE, frames=frames[:2], maps=maps[:2])
    save_release(dataclasses.replace(release, name=name, graphs=kept))
    return folder


def make_board(root: Path, disk: DurableDisk | None = None) -> DeviceBoard:
    """Return a board of an unknown model with fake engines and no service."""
    return DeviceBoard(
        root,
        read_board_facts(root / "facts"),
        FakeBackend(),
        parse_policy("fastest"),
        NoService(),
        disk or DurableDisk(),
        measure_start=lambda folder, precision, engine: 1.0,
    )


def install_bundle(board: DeviceBoard, path: Path, **options: bool) -> BoardState:
    """Install a bundle on a board without an autopilot."""
    return install(board, path, NoAutopilot(), **options)


def flown_counter(board: DeviceBoard) -> int | None:
    """Return the counter of the release that a board flies."""
    slot = board.read_state().current_slot
    return slot.counter if slot else None
