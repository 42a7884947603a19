"""Who may sign what flies, and how one set of keys hands over to the next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import atomic_file
from edge.core.errors import CheckError, InputError
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import (
    MAX_KEYS,
    PublicKeyHex,
    Signatures,
    SigningKey,
    load_public_key,
    parse_public_key,
    parse_signatures,
    read_limited,
    short_key_id,
    sign,
    verify_signatures,
)


@dataclass(frozen=True)
class Trust:
    """Which keys are trusted, and how many of them must sign: one document, with a version."""

    version: int
    threshold: int
    keys: tuple[PublicKeyHex, ...]

    def require_threshold(self, signers: Sequence[PublicKeyHex], what: str) -> None:
        """See that enough of the trusted keys are among the signers.

        Raises:
            CheckError: too few are; how many, and whose keys were seen, is said.
        """
        good = sorted(set(signers) & set(self.keys))
        if len(good) < self.threshold:
            seen = ", ".join(map(short_key_id, signers)) or "none"
            raise CheckError(
                f"{what} is signed by {len(good)} of the trusted keys, expected {self.threshold} "
                f"(trusted: {', '.join(map(short_key_id, self.keys))}; signed by: {seen}): sign it with trusted keys"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what is signed when trust is handed over."""
        return {"schema": 1, "version": self.version, "threshold": self.threshold, "keys": list(self.keys)}


def make_trust(keys: Sequence[PublicKeyHex], threshold: int = 1, version: int = 1) -> Trust:
    """Return a trust of these keys.

    Raises:
        InputError: no keys, too many, the same one twice, or a threshold out of 1 to their number.
    """
    ordered = tuple(sorted(set(keys)))
    if not 1 <= len(ordered) <= MAX_KEYS or len(ordered) != len(keys):
        raise InputError(f"{len(keys)} keys, {len(ordered)} of them different; expected 1 to {MAX_KEYS}")
    if not 1 <= threshold <= len(ordered):
        raise InputError(f"a threshold of {threshold} for {len(ordered)} keys; expected 1 to {len(ordered)}")
    return Trust(version, threshold, ordered)


TRUST_PURPOSE = b"aerogaze trust"


def write_trust(trust: Trust, signers: Sequence[SigningKey], place: Path) -> None:
    """Write a trust document, signed by keys of the trust before it (none for a first one)."""
    document = trust.to_dict()
    signatures = sign(signers, TRUST_PURPOSE, canonical.encode(document))
    with atomic_file(place) as path:
        path.write_bytes(canonical.encode({**document, "signatures": signatures}))


def load_trust_document(place: Path) -> tuple[Trust, Signatures]:
    """Read a trust document whose signatures are right; who may sign is for `verify_succession` to say.

    Raises:
        InputError: it is no trust document.
        CheckError: a signature is wrong.
    """
    return _parse_signed(read_limited(place), place)


def _parse_signed(data: bytes, place: Path) -> tuple[Trust, Signatures]:
    what = f"trust document {place}"
    document = canonical.decode(data, what)
    signatures = parse_signatures(document.pop("signatures", None), what)
    trust = parse_trust(document, what)
    verify_signatures(signatures, TRUST_PURPOSE, canonical.encode(document), what)
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


def verify_succession(old: Trust, new: Trust, signatures: Signatures) -> None:
    """See that a new trust may follow the old one: a version later, signed by enough of the old keys.

    Raises:
        CheckError: it may not.
    """
    if new.version != old.version + 1:
        raise CheckError(
            f"the new trust has version {new.version}, the trust now has {old.version}: "
            f"expected {old.version + 1}; hand trust over one document after the other"
        )
    old.require_threshold(list(signatures), f"trust version {new.version}")


def load_trust(places: Sequence[Path], threshold: int | None = None) -> Trust:
    """Read whom to trust: one trust document, or public keys.

    Raises:
        InputError: a file is neither, or a document comes with others or with a threshold.
        CheckError: a document's signature is wrong.
    """
    if len(places) != 1:
        return make_trust([load_public_key(place) for place in places], threshold or 1)
    trust, signatures = load_trust_with_signatures(places[0])
    if signatures is None:
        return make_trust(trust.keys, threshold or 1)
    if threshold is not None:
        raise InputError(f"{places[0]} says its own threshold: leave --threshold out")
    return trust


def load_trust_with_signatures(place: Path) -> tuple[Trust, Signatures | None]:
    """Read whom to trust, and who signed that: a trust document, or a public key, which nobody signs.

    The file is read once: what is trusted is what was signed, whoever changes the file meanwhile.

    Raises:
        InputError: it is neither.
        CheckError: a document's signature is wrong.
    """
    data = read_limited(place)
    if data.startswith(b"-----BEGIN"):
        return make_trust([parse_public_key(data, place)]), None
    return _parse_signed(data, place)
