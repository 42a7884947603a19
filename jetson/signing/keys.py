"""Ed25519 keys and signatures."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge.core.atomic_files import atomic_file, translate_write_errors
from edge.core.errors import CheckError, InputError

PublicKeyHex = str
"""The 32 bytes of an Ed25519 public key (RFC 8032) as 64 hex digits."""
Signatures = Mapping[PublicKeyHex, str]
"""Signatures by public key, as 128 hex digits."""
MAX_FILE_BYTES = 1 << 16
"""Bytes of a key or trust document that are read at most."""
MAX_KEYS = 32


class SigningKey:
    """A private key that was read from a file."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key: PublicKeyHex = private.public_key().public_bytes_raw().hex()

    def sign(self, purpose: bytes, message: bytes) -> str:
        """Sign a message for one purpose: a signed bundle is no signed trust document."""
        return self._private.sign(purpose + b"\0" + message).hex()


def generate_key(place: Path) -> SigningKey:
    """Write a new key (mode 0600) to `place`, and its public half to `place.pub`.

    Raises:
        InputError: one of them is there already, or cannot be written.
    """
    if place.is_dir():
        raise InputError(f"{place} is a folder: name the key's file in it, as {place / 'k'}")
    public = public_key_path(place)
    for path in (place, public):
        if os.path.lexists(path):
            raise InputError(f"{path} is there already: a key is never written over; name another place")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with atomic_file(public) as pending:
        pending.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    try:
        with translate_write_errors(place):
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secret)
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        public.unlink()
        raise
    return SigningKey(key)


def public_key_path(place: Path) -> Path:
    """Return where a key's public half is: `.pub` after its name."""
    return place.with_name(place.name + ".pub")


def load_signing_key(place: Path) -> SigningKey:
    """Read a private key.

    Raises:
        InputError: it is no unencrypted Ed25519 key in PEM.
    """
    try:
        private = serialization.load_pem_private_key(read_limited(place), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{place} is no Ed25519 private key: make one with aerogaze keys new --out {place}")
    return SigningKey(private)


def load_public_key(place: Path) -> PublicKeyHex:
    """Read a public key.

    Raises:
        InputError: it is no Ed25519 public key in PEM.
    """
    return parse_public_key(read_limited(place), place)


def parse_public_key(data: bytes, place: Path) -> PublicKeyHex:
    """Read a public key from what stands in a file.

    Raises:
        InputError: it is no Ed25519 public key in PEM.
    """
    try:
        public = serialization.load_pem_public_key(data)
    except ValueError:
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise InputError(f"{place} is no Ed25519 public key: name the .pub that aerogaze keys new wrote")
    return public.public_bytes_raw().hex()


def sign(keys: Sequence[SigningKey], purpose: bytes, message: bytes) -> dict[PublicKeyHex, str]:
    """Return each key's signature of a message."""
    return {key.public_key: key.sign(purpose, message) for key in keys}


def verify_signatures(signatures: Signatures, purpose: bytes, message: bytes, what: str) -> None:
    """See that every signature is right, whoever made it.

    Raises:
        CheckError: one is not.
    """
    for public, signature in signatures.items():
        if not _is_valid(public, signature, purpose + b"\0" + message):
            raise CheckError(
                f"{what}: the signature of key {short_key_id(public)} is wrong: it was damaged or changed"
            )


def _is_valid(public: PublicKeyHex, signature: str, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse_signatures(value: Any, what: str) -> dict[PublicKeyHex, str]:
    """Read signatures by public key.

    Raises:
        InputError: they are something else, or too many.
    """
    if (
        not isinstance(value, dict)
        or len(value) > MAX_KEYS
        or not all(
            isinstance(s, str) and re.fullmatch("[0-9a-f]{64}", k) and re.fullmatch("[0-9a-f]{128}", s)
            for k, s in value.items()
        )
    ):
        raise InputError(f"{what} has no signatures that can be read: it was damaged, or never signed")
    return dict(value)


def short_key_id(public: PublicKeyHex) -> str:
    """Return the first digits of a key, enough to tell it from others."""
    return public[:8]


def read_limited(place: Path) -> bytes:
    """Read a file of 64 KiB at most.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        with place.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{place} is larger than any key or trust document: name another file")
    return data
