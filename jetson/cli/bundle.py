"""The commands `aerogaze keys` and `aerogaze bundle`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version as version_of
from pathlib import Path

import click

from edge.cli.console import print_next_step
from edge.cli.options import FILE, SectionedCommand
from edge.core.errors import InputError
from edge.release.manifest import locate_release
from jetson.bundle.archive import BundleMetadata, open_bundle, read_bundle, write_bundle
from jetson.bundle.manifest import (
    MAX_COUNTER,
    BundleManifest,
    parse_compatibility,
    validate_date,
    version_key,
)
from jetson.signing.cms import CmsSigner, load_cms_signer
from jetson.signing.keys import (
    generate_key,
    load_public_key,
    load_signing_key,
    public_key_path,
    short_key_id,
)
from jetson.signing.trust import load_trust, make_trust, write_trust


@click.group(epilog="Example: aerogaze keys new --out k")
def keys() -> None:
    """Make signing keys, and the documents that say which keys a board trusts."""


@keys.command(short_help="Make an Ed25519 key.", epilog="Example: aerogaze keys new --out k")
@click.option("--out", type=FILE, required=True, help="File of the private key; the public key is OUT.pub.")
def new(out: Path) -> None:
    """Make an Ed25519 key: OUT, which only you can read, and OUT.pub for the boards."""
    key = generate_key(out)
    print(f"wrote {out} (keep it secret) and {public_key_path(out)}, key {short_key_id(key.public_key)}")


@keys.command(
    short_help="Write the document of the keys that boards trust.",
    epilog="Example: aerogaze keys trust k2.pub k3.pub --threshold 2 --version 2 --key k --out t.json",
)
@click.argument("public", nargs=-1, required=True, type=FILE)
@click.option(
    "--threshold", metavar="N", default=1, show_default=True, help="How many of the keys must sign a bundle."
)
@click.option(
    "--version",
    metavar="N",
    default=1,
    show_default=True,
    help="Version of the previous trust document, plus 1.",
)
@click.option(
    "--key",
    "signers",
    multiple=True,
    type=FILE,
    help="A private key to sign with, of a public key in the previous trust document. Can be repeated.",
)
@click.option("--out", type=FILE, required=True, help="The trust document to write.")
def trust(
    public: tuple[Path, ...], threshold: int, version: int, signers: tuple[Path, ...], out: Path
) -> None:
    """Write a trust document: boards that receive it trust the keys PUBLIC from then on.

    From version 2 on, it must be signed with keys that the boards trust already.
    """
    if version < 1 or (version > 1 and not signers):
        raise InputError(
            f"trust version {version} without signatures; expected version 1, or --key with trusted keys"
        )
    _refuse_to_overwrite_keys(out, (*public, *signers))
    new_trust = make_trust([load_public_key(path) for path in public], threshold, version)
    write_trust(new_trust, [load_signing_key(path) for path in signers], out)
    print(
        f"wrote {out}: version {version}, {threshold} of {len(new_trust.keys)} keys, "
        f"{len(signers)} signatures"
    )


@click.command(
    cls=SectionedCommand,
    sections={
        "Write a bundle": [
            "key_files",
            "out",
            "counter",
            "over",
            "compatible",
            "runtime",
            "expires",
            "caches",
            "swupdate_key",
            "swupdate_cert",
        ],
        "Check a bundle": ["verify", "listed", "trusted", "threshold"],
    },
    epilog="Example: aerogaze bundle my-release --key k --counter 2 --out b.swu",
)
@click.argument("release", required=False)
@click.option(
    "--key", "key_files", multiple=True, type=FILE, help="A private key to sign with. Can be repeated."
)
@click.option("--out", type=FILE, help="The bundle to write.")
@click.option("--counter", type=click.IntRange(1, MAX_COUNTER), metavar="N", default=1, show_default=True,
              help="Release counter: boards reject lower counters.")  # fmt: skip
@click.option("--over", type=click.IntRange(1, MAX_COUNTER), metavar="N",
              help="Also allow boards that have flown a higher counter, up to N.")  # fmt: skip
@click.option("--compatible", multiple=True, metavar="NAME=LIST",
              help="Where it may be installed: boards=orin-nano,orin-nx; compute=8.7; jetpack=6.1,6.2; "
                   "tensorrt=10.3. Can be repeated.")  # fmt: skip
@click.option(
    "--runtime",
    metavar="VERSION",
    default="0.1",
    show_default=True,
    help="Lowest version of aerogaze on the board.",
)
@click.option("--expires", metavar="DATE", help="Last day on which it may be installed, as 2027-01-31 (UTC).")
@click.option("--timing-cache", "caches", multiple=True, type=FILE,
              help="A TensorRT timing cache to include. Can be repeated.")  # fmt: skip
@click.option("--swupdate-key", type=FILE, help="RSA key, for boards whose SWUpdate needs signed images.")
@click.option("--swupdate-cert", type=FILE, help="Certificate of the RSA key, for emailProtection.")
@click.option("--verify", type=FILE, help="Check this bundle instead of writing one; needs --trust.")
@click.option("--list", "listed", type=FILE, help="Check this bundle and list its content.")
@click.option("--trust", "trusted", multiple=True, type=FILE,
              help="A public key that must have signed, or a trust document. Can be repeated.")  # fmt: skip
@click.option(
    "--threshold",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many of the --trust keys must have signed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def bundle(
    release: str | None,
    key_files: tuple[Path, ...],
    out: Path | None,
    counter: int,
    over: int | None,
    compatible: tuple[str, ...],
    runtime: str,
    expires: str | None,
    caches: tuple[Path, ...],
    swupdate_key: Path | None,
    swupdate_cert: Path | None,
    verify: Path | None,
    listed: Path | None,
    trusted: tuple[Path, ...],
    threshold: int | None,
    as_json: bool,
) -> None:
    """Write RELEASE as one signed file, or check such a file.

    RELEASE is a folder or the name of a shipped release. --verify and --list read the whole file and check
    each byte; --verify also requires signatures of the --trust keys.
    """
    paths = [path for path in (out, verify, listed) if path]
    if len(paths) != 1:
        raise InputError("expected one of --out (with RELEASE and --key), --verify or --list")
    if not out:
        _check_bundle(paths[0], trusted, threshold, verify is not None, as_json)
        return
    if release is None or not key_files:
        raise InputError("a bundle needs a release and a key: aerogaze bundle RELEASE --key k --out b.swu")
    cms = _load_cms_signer(swupdate_key, swupdate_cert, out, key_files)
    metadata = BundleMetadata(
        counter=counter,
        over=over,
        compatible=parse_compatibility(compatible),
        runtime=runtime,
        expires=None if expires is None else validate_date(expires),
        timing_caches=caches,
        cms=cms,
    )
    _refuse_useless_metadata(metadata)
    signing_keys = [load_signing_key(path) for path in key_files]
    manifest = write_bundle(locate_release(release), signing_keys, metadata, out)
    _print_manifest(manifest, as_json, f"wrote {out}, {out.stat().st_size} bytes: {_summary(manifest)}")
    if not as_json:
        print_next_step(f"aerogaze flash {out} USER@BOARD --trust {public_key_path(key_files[0])}")


def _check_bundle(
    path: Path, trusted: tuple[Path, ...], threshold: int | None, verify: bool, as_json: bool
) -> None:
    """Read a whole bundle and print what it contains; with `verify`, only that it is valid."""
    if verify and not trusted:
        raise InputError("--verify needs --trust with the expected signers: name a .pub or a trust document")
    trust = load_trust(trusted, threshold) if trusted else None
    with open_bundle(path) as file:
        manifest = read_bundle(file, str(path), trust).manifest
    if verify:
        text = f"{path} is complete and signed by trusted keys: {_summary(manifest)}"
        _print_manifest(manifest, as_json, text)
        return
    lines = [f"{_summary(manifest)}; signed by {', '.join(map(short_key_id, manifest.signers))}"]
    lines += [f"{file.size_bytes:>12}  {file.sha256[:16]}  {file.name}" for file in manifest.files]
    if trust is None:
        lines.append("to check the signers: --trust k.pub")
    _print_manifest(manifest, as_json, "\n".join(lines))


def _load_cms_signer(
    key: Path | None, certificate: Path | None, out: Path, key_files: tuple[Path, ...]
) -> CmsSigner | None:
    if (key is None) != (certificate is None):
        raise InputError("--swupdate-key and --swupdate-cert go together: name both, or none")
    _refuse_to_overwrite_keys(out, (*key_files, *filter(None, (key, certificate))))
    return load_cms_signer(key, certificate) if key and certificate else None


def _refuse_to_overwrite_keys(out: Path, keys: Iterable[Path]) -> None:
    """Check that the output is not one of the keys.

    Raises:
        InputError: It is.
    """
    for key in keys:
        if os.path.exists(out) and os.path.exists(key) and out.samefile(key):
            raise InputError(f"--out {out} is the key {key}, which is never overwritten: name another file")


def _refuse_useless_metadata(metadata: BundleMetadata) -> None:
    """Check that a board could install the bundle today.

    Raises:
        InputError: No board could, or --over has no effect.
    """
    own_version, today = version_of("aerogaze"), datetime.now(timezone.utc).date().isoformat()
    if metadata.over is not None and metadata.over <= metadata.counter:
        raise InputError(
            f"--over {metadata.over} is not above --counter {metadata.counter}, so it has no effect: "
            "boards that have flown at most this counter accept it anyway; omit it, or name a higher one"
        )
    if metadata.expires and metadata.expires < today:
        raise InputError(f"--expires {metadata.expires} is past; expected {today} (UTC) or later")
    if version_key(metadata.runtime) > version_key(own_version):
        raise InputError(
            f"--runtime {metadata.runtime} is newer than this aerogaze, {own_version}: name an older one"
        )


def _summary(manifest: BundleManifest) -> str:
    return f"{manifest.name}, counter {manifest.counter}, {len(manifest.files)} files"


def _print_manifest(manifest: BundleManifest, as_json: bool, text: str) -> None:
    print(json.dumps({**manifest.to_dict(), "id": manifest.id}) if as_json else text)
