"""`aerogaze keys` and `aerogaze bundle`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import version as version_of
from pathlib import Path

import click

from edge.core.errors import InputError
from jetson.bundle.archive import BundleMetadata, open_bundle, read_bundle, write_bundle
from jetson.bundle.manifest import (
    MAX_COUNTER,
    BundleManifest,
    parse_compatibility,
    validate_date,
    version_key,
)
from jetson.signing import keys as signing
from jetson.signing import trust as trusts
from jetson.signing.cms import load_cms_signer

PATH = click.Path(path_type=Path)


@click.group(epilog="Example: aerogaze keys new --out k")
def keys() -> None:
    """Make signing keys, and say which of them a board trusts."""


@keys.command(epilog="Example: aerogaze keys new --out k")
@click.option("--out", type=PATH, required=True, help="The private key; its public half goes to OUT.pub.")
def new(out: Path) -> None:
    """Make an Ed25519 key: OUT, which only you can read, and OUT.pub for boards."""
    key = signing.generate_key(out)
    print(
        f"wrote {out} (keep it secret) and {signing.public_key_path(out)}, key {signing.short_key_id(key.public_key)}"
    )


@keys.command(
    epilog="Example: aerogaze keys trust k2.pub k3.pub --threshold 2 --version 2 --key k --out t.json"
)
@click.argument("public", nargs=-1, required=True, type=PATH)
@click.option("--threshold", default=1, show_default=True, help="How many of the keys must sign a bundle.")
@click.option("--version", default=1, show_default=True, help="One more than the trust before it.")
@click.option("--key", "signers", multiple=True, type=PATH, help="A key of the trust before it; repeat it.")
@click.option("--out", type=PATH, required=True, help="The trust document.")
def trust(
    public: tuple[Path, ...], threshold: int, version: int, signers: tuple[Path, ...], out: Path
) -> None:
    """Name the keys to be trusted from now on: a document, signed by the keys trusted until now."""
    if version < 1 or (version > 1 and not signers):
        raise InputError(
            f"trust version {version} without signatures; expected version 1, or --key with trusted keys"
        )
    _check_out(out, (*public, *signers))
    made = trusts.make_trust([signing.load_public_key(place) for place in public], threshold, version)
    trusts.write_trust(made, [signing.load_signing_key(place) for place in signers], out)
    print(f"wrote {out}: version {version}, {threshold} of {len(made.keys)} keys, {len(signers)} signatures")


@click.command(epilog="Example: aerogaze bundle my-release --key k --counter 2 --out b.swu")
@click.argument("release", required=False)
@click.option("--key", "key_files", multiple=True, type=PATH, help="A private key to sign with; repeat it.")
@click.option("--out", type=PATH, help="The bundle to write.")
@click.option("--counter", type=click.IntRange(1, MAX_COUNTER), default=1, show_default=True,
              help="Number of the release: boards take none that is lower.")  # fmt: skip
@click.option("--over", type=click.IntRange(1, MAX_COUNTER),
              help="May go back onto boards that have flown at most this counter.")  # fmt: skip
@click.option("--compatible", multiple=True, metavar="NAME=VALUES",
              help="boards=orin-nano,orin-nx; compute=8.7; jetpack=6.1,6.2; tensorrt=10.3.")  # fmt: skip
@click.option("--runtime", default="0.1", show_default=True, help="Least version of aerogaze on the board.")
@click.option("--expires", help="Last day on which it may be installed, as 2027-01-31 (UTC).")
@click.option("--timing-cache", "caches", multiple=True, type=PATH, help="A TensorRT timing cache to carry.")
@click.option("--swupdate-key", type=PATH, help="RSA key, for boards whose SWUpdate wants signed images.")
@click.option("--swupdate-cert", type=PATH, help="Its certificate, for emailProtection.")
@click.option("--verify", type=PATH, help="Check this bundle instead of writing one.")
@click.option("--list", "listed", type=PATH, help="Check this bundle and list what is in it.")
@click.option("--trust", "trusted", multiple=True, type=PATH, help="A .pub that must have signed, or a trust document.")  # fmt: skip # noqa: E501
@click.option(
    "--threshold", type=click.IntRange(min=1), help="How many of the --trust keys must have signed."
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
    """Write RELEASE as one signed file, or check one.

    A release's folder or a shipped one's name. --list and --verify read the whole file and check each
    byte; --verify also asks that the keys of --trust have signed it.
    """
    asked = [place for place in (out, verify, listed) if place]
    if len(asked) != 1:
        raise InputError("expected one of --out (with RELEASE and --key), --verify or --list")
    if out:
        if release is None or not key_files:
            raise InputError(
                "a bundle needs a release and a key: aerogaze bundle RELEASE --key k --out b.swu"
            )
        if (swupdate_key is None) != (swupdate_cert is None):
            raise InputError("--swupdate-key and --swupdate-cert go together: name both, or none")
        _check_out(out, (*key_files, *filter(None, (swupdate_key, swupdate_cert))))
        cms = load_cms_signer(swupdate_key, swupdate_cert) if swupdate_key and swupdate_cert else None
        wishes = BundleMetadata(
            counter, over, parse_compatibility(compatible), runtime,
            None if expires is None else validate_date(expires), caches, cms,
        )  # fmt: skip
        _check_wishes(wishes)
        from edge.release.manifest import locate_release

        manifest = write_bundle(
            locate_release(release), [signing.load_signing_key(k) for k in key_files], wishes, out
        )
        _tell(manifest, as_json, f"wrote {out}, {out.stat().st_size} bytes: {_line(manifest)}")
        return
    if verify and not trusted:
        raise InputError(
            "--verify needs --trust: whose signature is expected? Name a .pub or a trust document"
        )
    trust = trusts.load_trust(trusted, threshold) if trusted else None
    with open_bundle(asked[0]) as file:
        manifest = read_bundle(file, str(asked[0]), trust).manifest
    if verify:
        _tell(manifest, as_json, f"{verify} is whole and signed by trusted keys: {_line(manifest)}")
        return
    lines = [f"{_line(manifest)}; signed by {', '.join(map(signing.short_key_id, manifest.signers))}"]
    lines += [f"{f.size_bytes:>12}  {f.sha256[:16]}  {f.name}" for f in manifest.files]
    _tell(manifest, as_json, "\n".join(lines if trust else [*lines, "whether to trust it: --trust k.pub"]))


def _check_out(out: Path, keys: Iterable[Path]) -> None:
    """See that no key is written over.

    Raises:
        InputError: one would be.
    """
    for key in keys:
        if os.path.exists(out) and os.path.exists(key) and out.samefile(key):
            raise InputError(f"--out {out} is the key {key}, which is never written over: name another place")


def _check_wishes(wishes: BundleMetadata) -> None:
    """See that some board could take it, today.

    Raises:
        InputError: none could, or --over would let it onto no board that --counter does not.
    """
    here, today = version_of("aerogaze"), datetime.now(timezone.utc).date().isoformat()
    if wishes.over is not None and wishes.over <= wishes.counter:
        raise InputError(
            f"--over {wishes.over} is not above --counter {wishes.counter}, which boards that have flown at "
            "most that take anyway: leave it out, or name the counter that they fly"
        )
    if wishes.expires and wishes.expires < today:
        raise InputError(f"--expires {wishes.expires} is past; expected {today} (UTC) or later")
    if version_key(wishes.runtime) > version_key(here):
        raise InputError(
            f"--runtime {wishes.runtime} is newer than this aerogaze, {here}: name one that is out"
        )


def _line(manifest: BundleManifest) -> str:
    return f"{manifest.name}, counter {manifest.counter}, {len(manifest.files)} files"


def _tell(manifest: BundleManifest, as_json: bool, text: str) -> None:
    print(json.dumps({**manifest.to_dict(), "id": manifest.id}) if as_json else text)
