"""Trusted signing keys, the signature threshold, and the hand-over from one set of keys to the next.

A trust document plays the role of the root metadata in TUF: it names keys and a threshold, and each version
is signed by enough keys of the version before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import atomic_file
from edge.core.errors import CheckError, InputError
from jetson.signing import canonical_json
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

TRUST_PURPOSE = b"aerogaze trust"
"""Part of what is signed: a signature of a trust document is not valid for anything else."""


@dataclass(frozen=True)
class Trust:
    """Trusted keys and how many of them must sign.

    Attributes:
        version: Number of the document; each hand-over adds 1.
        threshold: How many of the keys must have signed a bundle.
        keys: The trusted public keys, sorted.
    """

    version: int
    threshold: int
    keys: tuple[PublicKeyHex, ...]

    def require_threshold(self, signers: Sequence[PublicKeyHex], label: str) -> None:
        """Check that enough trusted keys are among the signers.

        Args:
            signers: The keys whose signatures are valid.
            label: What errors call the signed content.

        Raises:
            CheckError: Fewer trusted keys signed than the threshold. The message lists both sets of keys.
        """
        trusted_signers = set(signers) & set(self.keys)
        if len(trusted_signers) < self.threshold:
            trusted = ", ".join(map(short_key_id, self.keys))
            signed_by = ", ".join(map(short_key_id, signers)) or "none"
            raise CheckError(
                f"{label} is signed by {len(trusted_signers)} of the trusted keys, expected {self.threshold} "
                f"(trusted: {trusted}; signed by: {signed_by}): sign it with trusted keys"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the document that is stored and signed."""
        return {"schema": 1, "version": self.version, "threshold": self.threshold, "keys": list(self.keys)}


def make_trust(keys: Sequence[PublicKeyHex], threshold: int = 1, version: int = 1) -> Trust:
    """Return a trust of these keys.

    Raises:
        InputError: There are no keys, more than `MAX_KEYS`, or a key is given twice; or the threshold is
            not from 1 to the number of keys.
    """
    ordered = tuple(sorted(set(keys)))
    if not 1 <= len(ordered) <= MAX_KEYS or len(ordered) != len(keys):
        raise InputError(f"{len(keys)} keys, {len(ordered)} of them different; expected 1 to {MAX_KEYS}")
    if not 1 <= threshold <= len(ordered):
        raise InputError(f"a threshold of {threshold} for {len(ordered)} keys; expected 1 to {len(ordered)}")
    return Trust(version, threshold, ordered)


def write_trust(trust: Trust, signers: Sequence[SigningKey], path: Path) -> None:
    """Write a trust document.

    Args:
        trust: The trust to write.
        signers: Keys of the trust before it; none for the first version.
        path: The file to write.
    """
    document = trust.to_dict()
    signatures = sign(signers, TRUST_PURPOSE, canonical_json.encode(document))
    with atomic_file(path) as pending:
        pending.write_bytes(canonical_json.encode({**document, "signatures": signatures}))


def load_trust_document(path: Path) -> tuple[Trust, Signatures]:
    """Read a trust document and check that its signatures are valid.

    Whether the signers were allowed to sign it is for `verify_succession` to check.

    Raises:
        InputError: The file is not a trust document.
        CheckError: A signature is invalid.
    """
    return _parse_trust_document(read_limited(path, "a trust document that aerogaze keys trust wrote"), path)


def _parse_trust_document(data: bytes, path: Path) -> tuple[Trust, Signatures]:
    label = f"trust document {path}"
    document = canonical_json.decode(data, label)
    signatures = parse_signatures(document.pop("signatures", None), label)
    trust = parse_trust(document, label)
    verify_signatures(signatures, TRUST_PURPOSE, canonical_json.encode(document), label)
    return trust, signatures


def parse_trust(document: Mapping[str, Any], label: str) -> Trust:
    """Parse what `Trust.to_dict` returned; `label` names it in errors.

    Raises:
        InputError: The document has another schema, other keys, or invalid values.
    """
    remedy = "make it with aerogaze keys trust"
    if set(document) != {"schema", "version", "threshold", "keys"} or document["schema"] != 1:
        raise InputError(f"{label} is not of schema 1: {remedy}")
    version, threshold, keys = document["version"], document["threshold"], document["keys"]
    if type(version) is not int or version < 1 or type(threshold) is not int or not isinstance(keys, list):
        raise InputError(f"{label} is malformed: {remedy}")
    if not all(isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) for key in keys):
        raise InputError(f"{label} lists a value that is not a public key: {remedy}")
    trust = make_trust(keys, threshold, version)
    if list(trust.keys) != keys:
        raise InputError(f"the keys of {label} are not sorted: {remedy}")
    return trust


def verify_succession(old: Trust, new: Trust, signatures: Signatures) -> None:
    """Check that a new trust may replace the old one.

    Raises:
        CheckError: The new version is not the old version plus 1, or too few of the old keys signed it.
    """
    if new.version != old.version + 1:
        raise CheckError(
            f"the new trust has version {new.version}, the current trust has {old.version}: "
            f"expected {old.version + 1}; apply the trust documents one after the other"
        )
    old.require_threshold(list(signatures), f"trust version {new.version}")


def load_trust(paths: Sequence[Path], threshold: int | None = None) -> Trust:
    """Read the keys to trust from one trust document, or from public keys.

    Args:
        paths: One trust document, or one or more `.pub` files.
        threshold: How many of the public keys must sign; None means 1. A trust document has its own.

    Raises:
        InputError: A file is neither, or a document comes with other files or with a threshold.
        CheckError: A signature of the document is invalid.
    """
    if len(paths) != 1:
        return make_trust([load_public_key(path) for path in paths], threshold or 1)
    trust, signatures = load_trust_with_signatures(paths[0])
    if signatures is None:
        return make_trust(trust.keys, threshold or 1)
    if threshold is not None:
        raise InputError(f"{paths[0]} has its own threshold: leave out --threshold")
    return trust


def load_trust_with_signatures(path: Path) -> tuple[Trust, Signatures | None]:
    """Read one trust document or one public key.

    The file is read only once: the trust that is returned is the one whose signatures were checked, even if
    another process changes the file meanwhile.

    Returns:
        The trust, and the document's signatures; None for a public key, which has none.

    Raises:
        InputError: The file is neither.
        CheckError: A signature of the document is invalid.
    """
    data = read_limited(path, "a .pub of aerogaze keys new, or a trust document of aerogaze keys trust")
    if data.startswith(b"-----BEGIN"):
        return make_trust([parse_public_key(data, path)]), None
    return _parse_trust_document(data, path)
