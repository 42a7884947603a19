"""Ed25519 keys: who may sign what flies, and how one set of keys hands over to the next."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edge.errors import CheckError, InputError
from edge.files import writing, written_file
from jetson import canonical

PublicKey = str
"""The 32 bytes of an Ed25519 public key (RFC 8032) as 64 hex digits."""
Signatures = Mapping[PublicKey, str]
"""Signatures by public key, as 128 hex digits."""
LARGEST = 1 << 16
"""Bytes of a key or trust document that are read at most."""
MOST_KEYS = 32


class Key:
    """A private key that was read from a file."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: PublicKey = private.public_key().public_bytes_raw().hex()

    def sign(self, purpose: bytes, message: bytes) -> str:
        """Sign a message for one purpose: a signed bundle is no signed trust document."""
        return self._private.sign(purpose + b"\0" + message).hex()


def new_key(place: Path) -> Key:
    """Write a new key (mode 0600) to `place`, and its public half to `place.pub`.

    Raises:
        InputError: one of them is there already, or cannot be written.
    """
    public = public_name(place)
    for path in (place, public):
        if os.path.lexists(path):
            raise InputError(f"{path} is there already: a key is never written over; name another place")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with written_file(public) as pending:
        pending.write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    try:
        with writing(place):
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secret)
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        public.unlink()
        raise
    return Key(key)


def public_name(place: Path) -> Path:
    """Return where a key's public half is: `.pub` after its name."""
    return place.with_name(place.name + ".pub")


def load_key(place: Path) -> Key:
    """Read a private key.

    Raises:
        InputError: it is no unencrypted Ed25519 key in PEM.
    """
    try:
        private = serialization.load_pem_private_key(read_small(place), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{place} is no Ed25519 private key: make one with aerogaze keys new --out {place}")
    return Key(private)


def load_public(place: Path) -> PublicKey:
    """Read a public key.

    Raises:
        InputError: it is no Ed25519 public key in PEM.
    """
    try:
        public = serialization.load_pem_public_key(read_small(place))
    except ValueError:
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise InputError(f"{place} is no Ed25519 public key: name the .pub that aerogaze keys new wrote")
    return public.public_bytes_raw().hex()


def sign(keys: Sequence[Key], purpose: bytes, message: bytes) -> dict[PublicKey, str]:
    """Return each key's signature of a message."""
    return {key.public: key.sign(purpose, message) for key in keys}


def check_signatures(signatures: Signatures, purpose: bytes, message: bytes, what: str) -> None:
    """See that every signature is right, whoever made it.

    Raises:
        CheckError: one is not.
    """
    for public, signature in signatures.items():
        if not _right(public, signature, purpose + b"\0" + message):
            raise CheckError(
                f"{what}: the signature of key {short(public)} is wrong: it was damaged or changed"
            )


def _right(public: PublicKey, signature: str, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Trust:
    """Which keys are trusted, and how many of them must sign: one document, with a version."""

    version: int
    threshold: int
    keys: tuple[PublicKey, ...]

    def check(self, signers: Sequence[PublicKey], what: str) -> None:
        """See that enough of the trusted keys are among the signers.

        Raises:
            CheckError: too few are; how many, and whose keys were seen, is said.
        """
        good = sorted(set(signers) & set(self.keys))
        if len(good) < self.threshold:
            seen = ", ".join(map(short, signers)) or "none"
            raise CheckError(
                f"{what} is signed by {len(good)} of the trusted keys, expected {self.threshold} "
                f"(trusted: {', '.join(map(short, self.keys))}; signed by: {seen}): sign it with trusted keys"
            )

    def document(self) -> dict[str, Any]:
        """Return what is signed when trust is handed over."""
        return {"schema": 1, "version": self.version, "threshold": self.threshold, "keys": list(self.keys)}


def make_trust(keys: Sequence[PublicKey], threshold: int = 1, version: int = 1) -> Trust:
    """Return a trust of these keys.

    Raises:
        InputError: no keys, too many, the same one twice, or a threshold out of 1 to their number.
    """
    ordered = tuple(sorted(set(keys)))
    if not 1 <= len(ordered) <= MOST_KEYS or len(ordered) != len(keys):
        raise InputError(f"{len(keys)} keys, {len(ordered)} of them different; expected 1 to {MOST_KEYS}")
    if not 1 <= threshold <= len(ordered):
        raise InputError(f"a threshold of {threshold} for {len(ordered)} keys; expected 1 to {len(ordered)}")
    return Trust(version, threshold, ordered)


_TRUST = b"aerogaze trust"


def write_trust(trust: Trust, signers: Sequence[Key], place: Path) -> None:
    """Write a trust document, signed by keys of the trust before it (none for a first one)."""
    document = trust.document()
    signatures = sign(signers, _TRUST, canonical.encode(document))
    with written_file(place) as path:
        path.write_bytes(canonical.encode({**document, "signatures": signatures}))


def read_trust(place: Path) -> tuple[Trust, Signatures]:
    """Read a trust document whose signatures are right; who may sign is for `succeed` to say.

    Raises:
        InputError: it is no trust document.
        CheckError: a signature is wrong.
    """
    what = f"trust document {place}"
    document = canonical.decode(read_small(place), what)
    signatures = parse_signatures(document.pop("signatures", None), what)
    trust = parse_trust(document, what)
    check_signatures(signatures, _TRUST, canonical.encode(document), what)
    return trust, signatures


def parse_trust(document: Mapping[str, Any], what: str) -> Trust:
    """Read what `Trust.document` gave.

    Raises:
        InputError: it is something else.
    """
    if set(document) != {"schema", "version", "threshold", "keys"} or document["schema"] != 1:
        raise InputError(f"{what} is not of schema 1: make it with aerogaze keys trust")
    version, threshold, keys = document["version"], document["threshold"], document["keys"]
    if type(version) is not int or version < 1 or type(threshold) is not int or not isinstance(keys, list):
        raise InputError(f"{what} is malformed: make it with aerogaze keys trust")
    if not all(isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) for key in keys):
        raise InputError(f"{what} names something that is no public key: make it with aerogaze keys trust")
    trust = make_trust(keys, threshold, version)
    if list(trust.keys) != keys:
        raise InputError(f"{what} has its keys out of order: make it with aerogaze keys trust")
    return trust


def succeed(old: Trust, new: Trust, signatures: Signatures) -> None:
    """See that a new trust may follow the old one: a version later, signed by enough of the old keys.

    Raises:
        CheckError: it may not.
    """
    if new.version != old.version + 1:
        raise CheckError(
            f"the new trust has version {new.version}, the trust now has {old.version}: "
            f"expected {old.version + 1}; hand trust over one document after the other"
        )
    old.check(list(signatures), f"trust version {new.version}")


def load_trust(places: Sequence[Path], threshold: int | None = None) -> Trust:
    """Read whom to trust: one trust document, or public keys.

    Raises:
        InputError: a file is neither, or a document comes with others or with a threshold.
        CheckError: a document's signature is wrong.
    """
    if len(places) == 1 and not read_small(places[0]).startswith(b"-----BEGIN"):
        if threshold is not None:
            raise InputError(f"{places[0]} says its own threshold: leave --threshold out")
        return read_trust(places[0])[0]
    return make_trust([load_public(place) for place in places], threshold or 1)


def parse_signatures(value: Any, what: str) -> dict[PublicKey, str]:
    """Read signatures by public key.

    Raises:
        InputError: they are something else, or too many.
    """
    if (
        not isinstance(value, dict)
        or len(value) > MOST_KEYS
        or not all(
            isinstance(s, str) and re.fullmatch("[0-9a-f]{64}", k) and re.fullmatch("[0-9a-f]{128}", s)
            for k, s in value.items()
        )
    ):
        raise InputError(f"{what} has no signatures that can be read: it was damaged, or never signed")
    return dict(value)


def short(public: PublicKey) -> str:
    """Return the first digits of a key, enough to tell it from others."""
    return public[:8]


def read_small(place: Path) -> bytes:
    """Read a file of 64 KiB at most.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        with place.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise InputError(f"{place} is larger than any key or trust document: name another file")
    return data
