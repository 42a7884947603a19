"""The bundle: a signed release in one file, which is also an image that SWUpdate's servers carry.

Members in order: `sw-sw_description` (for SWUpdate, made from the manifest) and if wanted its signature,
`manifest.json` (signed), `signatures.json`, then the files. One release has one bundle, to the byte:
Ed25519 signatures have no chance in them (RFC 8032), and the reader takes no other spelling.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edge.core.atomic_files import atomic_file, sha256
from edge.core.errors import CheckError, InputError
from edge.release.manifest import load_release, release_files
from jetson.bundle import cpio
from jetson.bundle.manifest import UNRESTRICTED, BundleFile, BundleManifest, Compatibility, parse_manifest
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import (
    Signatures,
    SigningKey,
    parse_signatures,
    short_key_id,
    sign,
    verify_signatures,
)
from jetson.signing.trust import Trust

if TYPE_CHECKING:
    from jetson.signing.cms import CmsSigner  # of the desk: a board does without its libraries

BUNDLE_PURPOSE = b"aerogaze bundle"
MAX_TEXT_BYTES = 1 << 18
"""Bytes of the manifest, of the signatures, and of what SWUpdate reads, at most."""
ANY_BOARD = "any"
"""The hardware revision that a bundle for any board has for SWUpdate."""
FileSink = Callable[[BundleFile, Iterator[bytes]], None]
"""Takes a file's data, and must take all of it."""


@dataclass(frozen=True)
class BundleMetadata:
    """What the release itself does not say."""

    counter: int = 1
    over: int | None = None
    compatible: Compatibility = UNRESTRICTED
    runtime: str = "0.1"
    expires: str | None = None
    timing_caches: tuple[Path, ...] = ()
    cms: CmsSigner | None = None
    """Who signs for SWUpdate itself."""


@dataclass(frozen=True)
class SignedManifest:
    """A bundle's manifest with its signatures, which are right; whose they are is for `Trust` to say.

    `cms` is SWUpdate's own signature of `sw-sw_description`, carried and not used.
    """

    manifest: BundleManifest
    signatures: Signatures
    cms: bytes | None = None

    def texts(self) -> tuple[bytes, bytes]:
        """Return manifest and signatures as they stand in the bundle."""
        return canonical.encode(self.manifest.to_dict()), canonical.encode(dict(self.signatures))


def sw_description(manifest: BundleManifest) -> bytes:
    """Return what SWUpdate reads, in libconfig's syntax.

    SWUpdate by itself, and servers like gooseBit, see a version that grows with the counter, and boards
    as hardware revisions. Installed by SWUpdate itself the files would go to a folder for arrivals.
    """
    boards = ", ".join(f'"{board}"' for board in manifest.compatible.boards or (ANY_BOARD,))
    files = ",\n".join(
        f'    {{ filename = "{file.name}"; sha256 = "{file.sha256}"; type = "rawfile";'
        f' path = "/var/lib/aerogaze/arrived/{file.name}"; }}'
        for file in manifest.files
    )
    return (
        f'software =\n{{\n  version = "{manifest.counter}.0.0";\n  name = "{manifest.name}";\n'
        f"  hardware-compatibility: [ {boards} ];\n  files: (\n{files}\n  );\n}}\n"
    ).encode()


def write_bundle(
    folder: Path, keys: Sequence[SigningKey], wishes: BundleMetadata, place: Path
) -> BundleManifest:
    """Sign a release and write it as one file.

    Raises:
        InputError: no such release, a changed file, a name or value that a bundle cannot have, the same
            key twice, or a place that cannot be written.
        CheckError: a file changed while it was read. A bundle that was there before stays.
    """
    release = load_release(folder)
    paths = {name: release.folder / name for name in release_files(release)}
    for cache in wishes.timing_caches:
        if cache.name in paths:
            raise InputError(f"{cache} has the name of a file of the release: rename it")
        paths[cache.name] = cache
    caches = {cache.name for cache in wishes.timing_caches}
    entries = [_entry(path, name in caches) for name, path in sorted(paths.items())]
    signers = tuple(sorted(key.public_key for key in keys))
    if twice := [key for key in signers if signers.count(key) > 1]:
        raise InputError(f"the key {short_key_id(twice[0])} is given twice: name each key once")
    manifest = BundleManifest(
        release.name,
        wishes.counter,
        wishes.over,
        wishes.compatible,
        wishes.runtime,
        wishes.expires,
        tuple(entries),
        signers,
    )
    cms = wishes.cms.sign(sw_description(manifest)) if wishes.cms else None
    if cms is not None:
        manifest = dataclasses.replace(manifest, cms_sha256=hashlib.sha256(cms).hexdigest())
    manifest = parse_manifest(manifest.to_dict())
    sealed = SignedManifest(manifest, sign(keys, BUNDLE_PURPOSE, canonical.encode(manifest.to_dict())), cms)
    with atomic_file(place) as path:
        with path.open("wb") as file:
            _write(file, sealed, paths)
        with open_bundle(path) as file:  # what changed under our hands is found now, not on a board
            read_bundle(file, str(place))
    return manifest


@contextmanager
def open_bundle(place: Path) -> Iterator[BinaryIO]:
    """Open a bundle.

    Raises:
        InputError: it is no file, or cannot be read.
    """
    try:
        with open(place, "rb", opener=_open_now) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{place} is no file; expected a bundle that aerogaze bundle wrote")
            yield file
    except OSError as error:
        if error.filename != str(place):
            raise
        raise InputError(f"cannot read {place}: {error.strerror}") from None


def _open_now(path: str, flags: int) -> int:
    """Open without waiting, as for somebody to write to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_signed_manifest(reader: cpio.ArchiveReader, trust: Trust | None = None) -> SignedManifest:
    """Read manifest and signatures, and see that they are right, before anything else is looked at.

    Raises:
        InputError: it is no bundle, or spelt otherwise than we write it.
        CheckError: a signature is wrong, or (with `trust`) too few are trusted.
    """
    told = reader.next_member("sw-description").read(MAX_TEXT_BYTES)
    member = reader.next_member("sw-description.sig", "manifest.json")
    cms = member.read(MAX_TEXT_BYTES) if member.name == "sw-description.sig" else None
    text = (member if cms is None else reader.next_member("manifest.json")).read(MAX_TEXT_BYTES)
    signed = reader.next_member("signatures.json").read(MAX_TEXT_BYTES)
    signatures = parse_signatures(canonical.decode(signed, f"{reader.what}: signatures.json"), reader.what)
    verify_signatures(signatures, BUNDLE_PURPOSE, text, reader.what)
    if trust is not None:
        trust.require_threshold(sorted(signatures), reader.what)
    manifest = parse_manifest(canonical.decode(text, f"{reader.what}: manifest.json"))
    if canonical.encode(manifest.to_dict()) != text:
        raise InputError(f"{reader.what}: manifest.json is not as aerogaze writes it: bundle it again")
    if tuple(sorted(signatures)) != manifest.signers:
        raise CheckError(
            f"{reader.what}: a signature was taken away or added since it was made: bundle it again"
        )
    found = None if cms is None else hashlib.sha256(cms).hexdigest()
    if told != sw_description(manifest) or found != manifest.cms_sha256:
        raise CheckError(f"{reader.what}: sw-description is not what the manifest says: it was changed")
    return SignedManifest(manifest, signatures, cms)


def read_bundle(
    file: BinaryIO, what: str, trust: Trust | None = None, sink: FileSink | None = None
) -> SignedManifest:
    """Read a bundle from its start to its end and see that each byte is as it was written.

    Args:
        file: read once, in blocks.
        what: how to name it.
        trust: who must have signed it; None asks only that signatures are right.
        sink: takes each file. What it was given counts only once this returns: read a bundle twice, first
            without one.

    Raises:
        InputError, CheckError: as `read_signed_manifest` says, or a file is not what the manifest says.
    """
    reader = cpio.ArchiveReader(file, what)
    sealed = read_signed_manifest(reader, trust)
    for entry in sealed.manifest.files:
        member = reader.next_member(entry.name)
        if member.size != entry.size_bytes:
            raise CheckError(
                f"{what}: {entry.name} has {member.size} bytes, the manifest says {entry.size_bytes}"
            )
        digest = hashlib.sha256()
        blocks = _hashed(member.blocks(), digest)
        if sink is not None:
            sink(entry, blocks)
        for _ in blocks:
            pass
        if digest.hexdigest() != entry.sha256:
            raise CheckError(f"{what}: {entry.name} is not the file that was signed (its hash differs)")
    reader.end()
    return sealed


def _hashed(blocks: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block


def _entry(path: Path, timing_cache: bool) -> BundleFile:
    try:
        return BundleFile(
            cpio.validate_member_name(path.name), sha256(path), path.stat().st_size, timing_cache
        )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _write(file: BinaryIO, sealed: SignedManifest, paths: dict[str, Path]) -> None:
    manifest, signatures = sealed.texts()
    texts = {"sw-description": sw_description(sealed.manifest)}
    if sealed.cms is not None:
        texts["sw-description.sig"] = sealed.cms
    texts |= {"manifest.json": manifest, "signatures.json": signatures}
    for index, (name, text) in enumerate(texts.items(), start=1):
        size, check = cpio.size_and_checksum([text])
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{name} would have {size} bytes; expected at most {MAX_TEXT_BYTES}")
        file.write(cpio.encode_header(index, name, size, check) + text + bytes(-size % 4))
    for index, entry in enumerate(sealed.manifest.files, start=len(texts) + 1):
        size, check = cpio.size_and_checksum(_blocks(paths[entry.name]))
        file.write(cpio.encode_header(index, entry.name, size, check))
        for block in _blocks(paths[entry.name]):
            file.write(block)
        file.write(bytes(-size % 4))
    file.write(cpio.encode_trailer(file.tell()))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(cpio.BLOCK_BYTES):
            yield block
