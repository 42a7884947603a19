"""Keys, a small release with a bundle of it, and a board."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge.hardware.board import BoardFacts
from edge.release.manifest import GOLDEN_FILE, load_release, locate_release, save_release
from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.install import install
from jetson.device.precision_policy import parse_policy
from jetson.device.service import NoService
from jetson.device.slot_state import BoardState
from jetson.signing.keys import SigningKey, generate_key
from jetson.signing.trust import make_trust
from tests.support.disks import FakeBackend

if TYPE_CHECKING:
    from tests.support.sshd import Server

ORIN = BoardFacts("NVIDIA Jetson Orin Nano", "orin-nano", "8.7", "36.4.3", "6.2", "10.3.0", None, {})
START_2026 = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real sshd on loopback."""
    from tests.support.sshd import SFTP, SSHD, sshd

    if SSHD is None or SFTP is None:
        pytest.skip("no sshd here (apt-get install openssh-server)")
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return generate_key(tmp_path_factory.mktemp("keys") / "k")


def trimmed(folder: Path, *precisions: str, name: str = "skd-64", student: Path | None = None) -> Path:
    """Copy a shipped release with these precisions only and a golden set of two frames."""
    shutil.copytree(locate_release(student), folder)
    release = load_release(folder)
    kept = tuple(g for g in release.graphs if g.precision in precisions and g.engine != "tensorrt")
    for graph in {*release.graphs} - {*kept}:
        (folder / graph.file).unlink()
    frames, maps = release.load_golden()
    np.savez_compressed(folder / GOLDEN_FILE, frames=frames[:2], maps=maps[:2])
    save_release(dataclasses.replace(release, name=name, graphs=kept))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with an int8 graph only."""
    return trimmed(tmp_path_factory.mktemp("small") / "release", "int8")


@pytest.fixture(scope="session")
def make(small: Path, key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Bundle the small release, with wishes and keys of one's own if named."""

    def call(*keys: SigningKey, release: Path = small, **wishes: object) -> Path:
        place = tmp_path_factory.mktemp("bundle") / "b.swu"
        write_bundle(release, keys or [key], BundleMetadata(**wishes), place)  # type: ignore[arg-type]
        return place

    return call


@pytest.fixture(scope="session")
def bundle(make: Callable[..., Path]) -> Path:
    """The small release, signed."""
    return make()


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    """The public half of the key, as a file."""
    place = tmp_path_factory.mktemp("public") / "k.pub"
    raw = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key))
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    place.write_bytes(raw.public_bytes(pem, info))
    return place


@pytest.fixture
def board(tmp_path: Path, key: SigningKey) -> DeviceBoard:
    board = DeviceBoard(
        tmp_path / "board",
        ORIN,
        FakeBackend(),
        parse_policy("fastest"),
        NoService(),
        clock=lambda: START_2026,
    )
    board.set_trust(make_trust([key.public_key]), None)
    return board


def put(board: DeviceBoard, place: Path, **options: bool) -> BoardState:
    return install(board, place, NoAutopilot(), **options)


def flown(board: DeviceBoard) -> int | None:
    slot = board.read_state().current_slot
    return slot.counter if slot else None
