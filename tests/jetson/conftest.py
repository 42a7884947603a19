"""Fixtures of the jetson tests: keys, a small release with its bundle, a board, and an SSH server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.device.board import DeviceBoard
from jetson.device.precision_policy import parse_policy
from jetson.device.service import NoService
from jetson.signing.keys import SigningKey, generate_key
from jetson.signing.trust import make_trust
from tests.support.boards import ORIN, START_2026, copy_release
from tests.support.disks import FakeBackend

if TYPE_CHECKING:
    from tests.support.sshd import SshServer


@pytest.fixture(scope="package", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """Leave out fsync in this process: an install spends most of its time in it.

    What a power cut loses is modelled by `tests/support/disks.py`. The commands that tests start do wait.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A real sshd on loopback."""
    from tests.support.sshd import SFTP_SERVER, SSHD, run_sshd

    if SSHD is None or SFTP_SERVER is None:
        pytest.skip("no sshd here (apt-get install openssh-server)")
    with run_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return generate_key(tmp_path_factory.mktemp("keys") / "k")


@pytest.fixture(scope="session")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with an int8 graph only."""
    return copy_release(tmp_path_factory.mktemp("small") / "release", "int8")


@pytest.fixture(scope="session")
def make_bundle(
    small_release: Path, key: SigningKey, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Write a bundle of the small release; other keys, release and metadata can be passed."""

    def call(*keys: SigningKey, release: Path = small_release, **metadata: object) -> Path:
        path = tmp_path_factory.mktemp("bundle") / "b.swu"
        write_bundle(release, keys or [key], BundleMetadata(**metadata), path)  # type: ignore[arg-type]
        return path

    return call


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """A bundle of the small release, signed by `key`."""
    return make_bundle()


@pytest.fixture(scope="session")
def public_key_file(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    """The public half of `key` as a file."""
    path = tmp_path_factory.mktemp("public") / "k.pub"
    public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public_key))
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(public_key.public_bytes(pem, info))
    return path


@pytest.fixture
def board(tmp_path: Path, key: SigningKey) -> DeviceBoard:
    """An Orin Nano that trusts `key` and has no release yet."""
    board = DeviceBoard(
        tmp_path / "board",
        ORIN,
        FakeBackend(),
        parse_policy("fastest"),
        NoService(),
        clock=lambda: START_2026,
        measure_start=lambda folder, precision, engine: 1.0,
    )
    board.set_trust(make_trust([key.public_key]), None)
    return board
