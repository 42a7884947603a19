"""Ed25519 keys and signatures (RFC 8032)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cryptography
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge.core.atomic_files import atomic_file, translate_write_errors
from edge.core.errors import CheckError, InputError
from edge.core.guarded_files import read_bytes

OLDEST_CRYPTOGRAPHY = (3, 4)
"""Oldest version of the package cryptography that is supported, that of Ubuntu 22.04."""


def _check_cryptography(version: str) -> None:
    """Raise an error of one line if the package cryptography is too old."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_CRYPTOGRAPHY:
        raise InputError(
            f"cryptography {version} is too old; "
            f"expected {'.'.join(map(str, OLDEST_CRYPTOGRAPHY))} or later: pip install --upgrade cryptography"
        )


_check_cryptography(cryptography.__version__)
PublicKeyHex = str
"""The 32 bytes of an Ed25519 public key as 64 hex digits."""
Signatures = Mapping[PublicKeyHex, str]
"""Signatures by public key, each as 128 hex digits."""
MAX_FILE_BYTES = 1 << 16
"""Largest key or trust document that is read."""
MAX_KEYS = 32


class SigningKey:
    """Ed25519 private key.

    Attributes:
        public_key: The public key that belongs to it.
    """

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: PublicKeyHex = _to_hex(private_key.public_key())

    def sign(self, purpose: bytes, message: bytes) -> str:
        """Return the signature of a message.

        The purpose is part of what is signed, so that a signature of a bundle is never a valid signature of
        a trust document.
        """
        return self._private_key.sign(purpose + b"\0" + message).hex()


def generate_key(path: Path) -> SigningKey:
    """Write a new private key to `path` (mode 0600), and its public key to `path.pub`.

    Raises:
        InputError: One of the files already exists, or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it for the key, such as {path / 'k'}")
    public_path = public_key_path(path)
    for existing in (path, public_path):
        if os.path.lexists(existing):
            raise InputError(f"{existing} already exists: a key is never overwritten; name another file")
    private_key = Ed25519PrivateKey.generate()
    private_pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The public key comes first: it can be removed again if the private key cannot be written.
    with atomic_file(public_path) as pending:
        pending.write_bytes(
            private_key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    try:
        with translate_write_errors(path):
            # Created with its final mode: at no moment can another user open the private key.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(private_pem)
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        public_path.unlink()
        raise
    return SigningKey(private_key)


def public_key_path(path: Path) -> Path:
    """Return the path of the public key that belongs to a private key's path."""
    return path.with_name(path.name + ".pub")


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key.

    Raises:
        InputError: The file is not readable, or not an unencrypted Ed25519 key in PEM.
    """
    data = read_limited(path, f"a private key: make one with aerogaze keys new --out {path}")
    try:
        private_key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        private_key = None
    if not isinstance(private_key, Ed25519PrivateKey):
        raise InputError(
            f"{path} is not an Ed25519 private key: make one with aerogaze keys new --out {path}"
        )
    return SigningKey(private_key)


def load_public_key(path: Path) -> PublicKeyHex:
    """Read a public key.

    Raises:
        InputError: The file is not readable, or not an Ed25519 public key in PEM.
    """
    return parse_public_key(read_limited(path, "a .pub that aerogaze keys new wrote"), path)


def parse_public_key(data: bytes, path: Path) -> PublicKeyHex:
    """Parse the content of a public key's file; `path` names it in errors.

    Raises:
        InputError: The data is not an Ed25519 public key in PEM.
    """
    try:
        public_key = serialization.load_pem_public_key(data)
    except ValueError:
        public_key = None
    if not isinstance(public_key, Ed25519PublicKey):
        raise InputError(
            f"{path} is not an Ed25519 public key: name the .pub file that aerogaze keys new wrote"
        )
    return _to_hex(public_key)


def _to_hex(public_key: Ed25519PublicKey) -> PublicKeyHex:
    # Not public_bytes_raw, which needs cryptography 40: Ubuntu 22.04 and JetPack 6 have 3.4.8.
    raw = public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex()


def sign(keys: Sequence[SigningKey], purpose: bytes, message: bytes) -> dict[PublicKeyHex, str]:
    """Return one signature of the message per key."""
    return {key.public_key: key.sign(purpose, message) for key in keys}


def verify_signatures(signatures: Signatures, purpose: bytes, message: bytes, label: str) -> None:
    """Check that every signature is valid. Whether its key is trusted is not checked here.

    Args:
        signatures: The signatures by public key.
        purpose: The purpose that they were made for.
        message: The signed bytes.
        label: What errors call the message.

    Raises:
        CheckError: A signature is invalid.
    """
    for public_key, signature in signatures.items():
        if not _is_valid(public_key, signature, purpose + b"\0" + message):
            raise CheckError(
                f"{label}: the signature of key {short_key_id(public_key)} is wrong: "
                "the content was damaged or changed"
            )


def _is_valid(public_key: PublicKeyHex, signature: str, message: bytes) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_signatures(value: Any, label: str) -> dict[PublicKeyHex, str]:
    """Check the format of signatures that were read from JSON.

    Raises:
        InputError: The value is not a table of signatures by public key, or has more than `MAX_KEYS`.
    """
    if (
        not isinstance(value, dict)
        or len(value) > MAX_KEYS
        or not all(
            isinstance(signature, str)
            and re.fullmatch("[0-9a-f]{64}", public_key)
            and re.fullmatch("[0-9a-f]{128}", signature)
            for public_key, signature in value.items()
        )
    ):
        raise InputError(f"{label} has no readable signatures: it was damaged, or never signed")
    return dict(value)


def short_key_id(public_key: PublicKeyHex) -> str:
    """Return the first 8 digits of a public key, as messages show it."""
    return public_key[:8]


def read_limited(path: Path, expected: str, accepts_pipe: bool = True) -> bytes:
    """Return the content of a file of at most 64 KiB.

    Args:
        path: The file, or a pipe such as /dev/stdin or a shell's <(...), which is read once.
        expected: What the file should be, for error messages.
        accepts_pipe: Read a pipe as well; not for files of a board, which others could replace by one.

    Raises:
        InputError: The file cannot be read, is neither a regular file nor a pipe, or is larger.
    """
    return read_bytes(path, MAX_FILE_BYTES, expected, accepts_pipe)
