"""Bundle: a signed release in one file, which is also an image that SWUpdate servers can distribute.

Members in order: `sw-description` (for SWUpdate, derived from the manifest), optionally its CMS signature,
`manifest.json` (signed), `signatures.json`, then the files. The same release, metadata and keys always give
the same bytes: Ed25519 signatures are deterministic (RFC 8032), and the reader accepts one encoding only.
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
from jetson.signing import canonical_json
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
    from jetson.signing.cms import CmsSigner  # needs libraries that are not installed on boards

BUNDLE_PURPOSE = b"aerogaze bundle"
"""Part of what is signed: a signature of a manifest is not valid for anything else."""
MAX_TEXT_BYTES = 1 << 18
"""Largest manifest, `signatures.json` or `sw-description`."""
ANY_BOARD = "any"
"""Hardware revision for SWUpdate of a bundle that any board may install."""
FileSink = Callable[[BundleFile, Iterator[bytes]], None]
"""Receives a file and its data in blocks, and must consume all of them."""


@dataclass(frozen=True)
class BundleMetadata:
    """Metadata of a bundle that is not part of the release.

    Attributes:
        counter, over, compatible, runtime, expires: The fields of `BundleManifest`.
        timing_caches: TensorRT timing caches to include.
        cms: Signs `sw-description` for SWUpdate; None for no CMS signature.
    """

    counter: int = 1
    over: int | None = None
    compatible: Compatibility = UNRESTRICTED
    runtime: str = "0.1"
    expires: str | None = None
    timing_caches: tuple[Path, ...] = ()
    cms: CmsSigner | None = None


@dataclass(frozen=True)
class SignedManifest:
    """Manifest of a bundle with valid signatures. Whether the signers are trusted is for `Trust` to check.

    Attributes:
        manifest: The manifest.
        signatures: Signatures of it.
        cms: CMS signature of `sw-description`. It is carried for SWUpdate and not verified here.
    """

    manifest: BundleManifest
    signatures: Signatures
    cms: bytes | None = None

    def encode(self) -> tuple[bytes, bytes]:
        """Return the content of `manifest.json` and of `signatures.json`."""
        return canonical_json.encode(self.manifest.to_dict()), canonical_json.encode(dict(self.signatures))


def sw_description(manifest: BundleManifest) -> bytes:
    """Return the content of `sw-description`, in libconfig syntax, as SWUpdate reads it.

    SWUpdate and servers like gooseBit see a version that grows with the counter, and boards as hardware
    revisions. If SWUpdate itself installs the image, it only copies the files to a folder.
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
    folder: Path, keys: Sequence[SigningKey], metadata: BundleMetadata, path: Path
) -> BundleManifest:
    """Sign a release and write it as one file.

    Args:
        folder: The release.
        keys: The keys to sign with.
        metadata: What the release does not contain.
        path: The bundle to write. An existing bundle is replaced only if all went well.

    Returns:
        The manifest of the bundle.

    Raises:
        InputError: The folder is not a release, a file of it was changed, a name or value is not allowed in
            a bundle, a key is given twice, or `path` cannot be written.
        CheckError: A file changed while the bundle was written.
    """
    release = load_release(folder)
    paths = {name: release.folder / name for name in release_files(release)}
    for cache in metadata.timing_caches:
        if cache.name in paths:
            raise InputError(f"{cache} has the same name as a file of the release: rename it")
        paths[cache.name] = cache
    cache_names = {cache.name for cache in metadata.timing_caches}
    entries = [_file_entry(paths[name], name in cache_names) for name in sorted(paths)]
    signers = tuple(sorted(key.public_key for key in keys))
    if repeated := [key for key in signers if signers.count(key) > 1]:
        raise InputError(f"the key {short_key_id(repeated[0])} is given twice: name each key once")
    manifest = BundleManifest(
        name=release.name,
        counter=metadata.counter,
        over=metadata.over,
        compatible=metadata.compatible,
        runtime=metadata.runtime,
        expires=metadata.expires,
        files=tuple(entries),
        signers=signers,
    )
    # The CMS signature covers sw-description, which does not contain cms_sha256: no circle.
    cms = metadata.cms.sign(sw_description(manifest)) if metadata.cms else None
    if cms is not None:
        manifest = dataclasses.replace(manifest, cms_sha256=hashlib.sha256(cms).hexdigest())
    manifest = parse_manifest(manifest.to_dict())
    signatures = sign(keys, BUNDLE_PURPOSE, canonical_json.encode(manifest.to_dict()))
    with atomic_file(path) as pending:
        with pending.open("wb") as file:
            _write_members(file, SignedManifest(manifest, signatures, cms), paths)
        # Read it back: a file that changed since it was hashed is found here, not on a board.
        with open_bundle(pending) as file:
            read_bundle(file, str(path))
    return manifest


@contextmanager
def open_bundle(path: Path) -> Iterator[BinaryIO]:
    """Open a bundle for reading.

    Raises:
        InputError: The path is not a regular file, or cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(
                    f"{path} is not a regular file; expected a bundle that aerogaze bundle wrote"
                )
            yield file
    except OSError as error:
        if error.filename != str(path):
            raise
        raise InputError(
            f"cannot read {path}: {error.strerror}; expected a bundle that aerogaze bundle wrote"
        ) from None


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file; a named pipe would otherwise block until it has a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_signed_manifest(reader: cpio.ArchiveReader, trust: Trust | None = None) -> SignedManifest:
    """Read the manifest and its signatures. The signatures are verified before the manifest is parsed.

    Args:
        reader: At the start of a bundle.
        trust: The keys that must have signed it; None to check only that the signatures are valid.

    Raises:
        InputError: The file is not a bundle, or not in canonical form.
        CheckError: A signature is invalid, or too few signers are trusted.
    """
    label = reader.label
    description = reader.next_member("sw-description").read(MAX_TEXT_BYTES)
    member = reader.next_member("sw-description.sig", "manifest.json")
    cms = member.read(MAX_TEXT_BYTES) if member.name == "sw-description.sig" else None
    text = (member if cms is None else reader.next_member("manifest.json")).read(MAX_TEXT_BYTES)
    signatures_text = reader.next_member("signatures.json").read(MAX_TEXT_BYTES)
    signatures = parse_signatures(canonical_json.decode(signatures_text, f"{label}: signatures.json"), label)
    verify_signatures(signatures, BUNDLE_PURPOSE, text, label)
    if trust is not None:
        trust.require_threshold(sorted(signatures), label)
    # Only bytes with a valid signature reach the parser of the manifest.
    manifest = parse_manifest(canonical_json.decode(text, f"{label}: manifest.json"))
    # Python takes true for 1, so the parser may have accepted it: compare the bytes as well.
    if canonical_json.encode(manifest.to_dict()) != text:
        raise InputError(f"{label}: manifest.json is not as aerogaze writes it: bundle it again")
    if tuple(sorted(signatures)) != manifest.signers:
        raise CheckError(f"{label}: a signature was removed or added after it was signed: bundle it again")
    cms_sha256 = None if cms is None else hashlib.sha256(cms).hexdigest()
    if description != sw_description(manifest) or cms_sha256 != manifest.cms_sha256:
        raise CheckError(f"{label}: sw-description does not match the manifest: it was changed")
    return SignedManifest(manifest, signatures, cms)


def read_bundle(
    file: BinaryIO, label: str, trust: Trust | None = None, sink: FileSink | None = None
) -> SignedManifest:
    """Read a whole bundle and verify every byte.

    Args:
        file: The bundle, read once in blocks.
        label: What errors call it.
        trust: The keys that must have signed it; None to check only that the signatures are valid.
        sink: Receives each file. The data counts as verified only after this function returns, so read a
            bundle first without a sink.

    Returns:
        The manifest and its signatures.

    Raises:
        InputError: The file is not a bundle, or not in canonical form.
        CheckError: A signature is invalid, too few signers are trusted, or a file does not match the
            manifest.
    """
    reader = cpio.ArchiveReader(file, label)
    signed = read_signed_manifest(reader, trust)
    for entry in signed.manifest.files:
        member = reader.next_member(entry.name)
        if member.size != entry.size_bytes:
            raise CheckError(
                f"{label}: {entry.name} has {member.size} bytes, the manifest says {entry.size_bytes}"
            )
        digest = hashlib.sha256()
        blocks = _update_digest(member.blocks(), digest)
        if sink is not None:
            sink(entry, blocks)
        # Read what the sink left: the checksum and the padding are checked at the end of the data.
        for _ in blocks:
            pass
        if digest.hexdigest() != entry.sha256:
            raise CheckError(f"{label}: {entry.name} is not the file that was signed (its hash differs)")
    reader.expect_end()
    return signed


def _update_digest(blocks: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block


def _file_entry(path: Path, timing_cache: bool) -> BundleFile:
    try:
        return BundleFile(
            cpio.validate_member_name(path.name), sha256(path), path.stat().st_size, timing_cache
        )
    except OSError as error:
        kind = "a timing cache of TensorRT" if timing_cache else "a file of the release"
        raise InputError(f"cannot read {path}: {error.strerror}; expected {kind}") from None


def _write_members(file: BinaryIO, signed: SignedManifest, paths: dict[str, Path]) -> None:
    manifest, signatures = signed.encode()
    texts = {"sw-description": sw_description(signed.manifest)}
    if signed.cms is not None:
        texts["sw-description.sig"] = signed.cms
    texts |= {"manifest.json": manifest, "signatures.json": signatures}
    for index, (name, text) in enumerate(texts.items(), start=1):
        size, checksum = cpio.size_and_checksum([text])
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{name} would have {size} bytes; expected at most {MAX_TEXT_BYTES}")
        file.write(cpio.encode_header(index, name, size, checksum) + text + bytes(-size % 4))
    for index, entry in enumerate(signed.manifest.files, start=len(texts) + 1):
        size, checksum = cpio.size_and_checksum(_read_blocks(paths[entry.name]))
        file.write(cpio.encode_header(index, entry.name, size, checksum))
        for block in _read_blocks(paths[entry.name]):
            file.write(block)
        file.write(bytes(-size % 4))
    file.write(cpio.encode_trailer(file.tell()))


def _read_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(cpio.BLOCK_BYTES):
            yield block
