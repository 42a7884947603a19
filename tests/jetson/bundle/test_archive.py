"""Bundles are deterministic, and any changed byte is rejected."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from edge.core.errors import CheckError, InputError
from jetson.bundle import archive, cpio
from jetson.bundle.archive import BundleMetadata, read_bundle, write_bundle
from jetson.bundle.manifest import BundleFile, Compatibility, parse_manifest, version_key, version_matches
from jetson.signing import canonical_json
from jetson.signing.keys import SigningKey, generate_key, sign
from jetson.signing.trust import make_trust
from tests.conftest import Outcome

Command = Callable[..., Outcome]
REJECTED = (InputError, CheckError)


def read(data: bytes, key: SigningKey | None = None) -> archive.SignedManifest:
    return read_bundle(io.BytesIO(data), "b.swu", make_trust([key.public_key]) if key else None)


def test_same_release_gives_identical_bundle(
    small_release: Path, key: SigningKey, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(small_release, tmp_path / "elsewhere"))
    (copy / "notes.txt").write_text("not part of the release")
    write_bundle(copy, [key], BundleMetadata(), tmp_path / "again.swu")
    assert (tmp_path / "again.swu").read_bytes() == bundle.read_bytes()


def test_reading_a_bundle_returns_all_files(small_release: Path, key: SigningKey, bundle: Path) -> None:
    contents: dict[str, bytes] = {}
    with bundle.open("rb") as file:
        read_bundle(
            file,
            "b",
            make_trust([key.public_key]),
            lambda entry, blocks: contents.__setitem__(entry.name, b"".join(blocks)),
        )
    assert contents == {path.name: path.read_bytes() for path in small_release.iterdir()}


def check_flipped_bytes(data: bytes, count: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    for _ in range(count):
        at = chance.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= chance.randrange(1, 256)
        with pytest.raises(REJECTED):
            read(bytes(changed))


def test_bundle_with_a_changed_byte_is_rejected(bundle: Path) -> None:
    data = bundle.read_bytes()
    check_flipped_bytes(data, 300, seed=1)
    for at in [*range(6000), *range(len(data) - 600, len(data))][::7]:  # descriptions, padding, trailer
        with pytest.raises(REJECTED):
            read(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])


def test_bundle_with_inserted_removed_or_repeated_bytes_is_rejected(bundle: Path) -> None:
    data, chance = bundle.read_bytes(), random.Random(4)  # noqa: S311
    for _ in range(150):
        at, size = (
            chance.choice([chance.randrange(6000), chance.randrange(len(data))]),
            chance.randrange(1, 600),
        )
        for changed in (
            data[:at] + data[at + size :],
            data[:at] + chance.randbytes(size) + data[at:],
            data[:at] + data[at : at + size] * 2 + data[at + size :],
        ):
            with pytest.raises(REJECTED):
                read(changed)


@pytest.mark.long
def test_bundle_with_a_changed_byte_is_rejected_ten_thousand_times(bundle: Path) -> None:
    check_flipped_bytes(bundle.read_bytes(), 10_000, seed=2)


def test_truncated_or_extended_bundle_is_rejected(bundle: Path) -> None:
    data = bundle.read_bytes()
    read(data)
    for size in (0, 1, 109, 110, 5000, len(data) // 2, len(data) - 512, len(data) - 1):
        with pytest.raises(InputError, match="ends too early"):
            read(data[:size])
    for extra in (b"\0", b"\0" * 512, data):
        with pytest.raises(InputError, match="continues after its end"):
            read(data + extra)


def test_bundle_of_an_untrusted_key_is_rejected(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys, expected 1"):
        read(bundle.read_bytes(), generate_key(tmp_path / "other"))


def test_bundle_needs_as_many_trusted_signatures_as_the_threshold(
    make_bundle: Callable[..., Path], key: SigningKey, tmp_path: Path
) -> None:
    second, third = generate_key(tmp_path / "2"), generate_key(tmp_path / "3")
    trust = make_trust([key.public_key, second.public_key, third.public_key], threshold=2)
    with make_bundle(key, third).open("rb") as file:
        assert len(read_bundle(file, "b", trust).signatures) == 2
    with (
        make_bundle(key).open("rb") as file,
        pytest.raises(CheckError, match="by 1 of the trusted keys, expected 2"),
    ):
        read_bundle(file, "b", trust)


def rewrite(bundle: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    """Return a bundle with changed members, as a valid archive."""
    with bundle.open("rb") as file:
        reader = cpio.ArchiveReader(file, "b")
        names = ["sw-description", "manifest.json", "signatures.json"]
        members = {name: reader.next_member(name).read(1 << 20) for name in names}
        for entry in json.loads(members["manifest.json"])["files"]:
            members[entry["name"]] = reader.next_member(entry["name"]).read(1 << 24)
    out = b""
    for index, (name, data) in enumerate(change(members).items(), start=1):
        size, check = cpio.size_and_checksum([data])
        out += cpio.encode_header(index, name, size, check) + data + bytes(-size % 4)
    return out + cpio.encode_trailer(len(out))


def test_rewriting_members_unchanged_gives_the_same_bytes(bundle: Path) -> None:
    assert rewrite(bundle, lambda members: members) == bundle.read_bytes()


def test_members_of_another_bundle_are_rejected(
    make_bundle: Callable[..., Path], bundle: Path, key: SigningKey, tmp_path: Path
) -> None:
    other = make_bundle(counter=9)
    taken: dict[str, bytes] = {}

    def take(members: dict[str, bytes]) -> dict[str, bytes]:
        taken.update(members)
        return members

    rewrite(other, take)
    for name in ("sw-description", "manifest.json", "signatures.json"):
        swapped = {name: taken[name]}
        with pytest.raises(REJECTED):
            read(rewrite(bundle, lambda members: {**members, **swapped}))  # noqa: B023
    two = make_bundle(key, generate_key(tmp_path / "2"))

    def one_signature(members: dict[str, bytes]) -> dict[str, bytes]:
        signatures = canonical_json.decode(members["signatures.json"], "s")
        del signatures[next(s for s in signatures if s != key.public_key)]
        return {**members, "signatures.json": canonical_json.encode(signatures)}

    with pytest.raises(CheckError, match="a signature was removed or added"):
        read(rewrite(two, one_signature))


def test_added_missing_or_reordered_files_are_rejected(bundle: Path) -> None:
    for change in (
        lambda m: {**m, "more.onnx": b"x"},
        lambda m: dict(list(m.items())[:-1]),
        lambda m: dict(list(m.items())[:3] + list(m.items())[:2:-1]),
        lambda m: {**m, list(m)[-1]: b"another"},
    ):
        with pytest.raises(REJECTED):
            read(rewrite(bundle, change))


def signed(
    key: SigningKey, members: dict[str, bytes], change: Callable[[dict[str, object]], object]
) -> dict[str, bytes]:
    """Change the manifest and sign it again, as the holder of a key could."""
    document = json.loads(members["manifest.json"])
    change(document)
    text = canonical_json.encode(document)
    signatures = canonical_json.encode(sign([key], archive.BUNDLE_PURPOSE, text))
    return {**members, "manifest.json": text, "signatures.json": signatures}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["files"][0].update(name="../evil"), "plain file name"),
        (lambda d: d["files"][0].update(name="/etc/passwd"), "plain file name"),
        (lambda d: d["files"][0].update(name=".hidden"), "plain file name"),
        (lambda d: d["files"][0].update(name="a\nb"), "plain file name"),
        (lambda d: d["files"][0].update(name="a" * 101), "plain file name"),
        (lambda d: d["files"][0].update(name="manifest.json"), "is malformed"),
        (lambda d: d["files"][0].update(size_bytes=1 << 40), "expected a whole number from 0"),
        (lambda d: d["files"][0].update(size_bytes=-1), "expected a whole number from 0"),
        (lambda d: d["files"].append(d["files"][-1]), "twice"),
        (lambda d: d["files"].clear(), "none"),
        (lambda d: d["files"].extend([{**d["files"][-1], "name": f"z{i:04}"} for i in range(300)]), "at most 256"),  # noqa: E501
        (lambda d: d.update(schema=True), "not as aerogaze writes it"),
        (lambda d: d.update(schema=2), "schema 2; this aerogaze reads schema 1"),
        (lambda d: d.update(counter=0), "counter is 0"),
        (lambda d: d.update(counter=True), "counter is True"),
        (lambda d: d.update(extra=1), "extra is missing or unknown"),
        (lambda d: d.update(expires="2027-02-30"), "is not a date"),
        (lambda d: d.update(runtime="latest"), "runtime cannot be 'latest'"),
        (lambda d: d["compatible"].update(boards=["Orin Nano\n"]), "boards cannot be"),
        (lambda d: d.update(name='x"; } evil'), "name cannot be"),
    ],
)  # fmt: skip
def test_signed_manifest_with_an_invalid_value_is_rejected(
    bundle: Path, key: SigningKey, change: Callable[[dict[str, object]], object], message: str
) -> None:
    data = rewrite(bundle, lambda members: signed(key, members, change))
    with pytest.raises(InputError, match=message):
        read(data, key)


def test_sink_receives_nothing_if_the_signer_is_not_trusted(bundle: Path, tmp_path: Path) -> None:
    trust, received = make_trust([generate_key(tmp_path / "other").public_key]), []
    with bundle.open("rb") as file, pytest.raises(CheckError):
        read_bundle(file, "b", trust, lambda entry, blocks: received.append(entry))
    assert received == []


def test_member_size_in_the_header_allocates_no_memory(bundle: Path) -> None:
    data = bundle.read_bytes()
    tracemalloc.start()
    try:
        for size in (1 << 30, (1 << 32) - 1, 1 << 19):
            head = cpio.encode_header(1, "sw-description", size, 0)
            with pytest.raises(InputError, match="expected at most"):
                read(head + data[len(head) :])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_links_and_folders_as_members_are_rejected(bundle: Path) -> None:
    data = bundle.read_bytes()
    for mode in (b"0000A1FF", b"000041ED", b"000081ED"):
        with pytest.raises(InputError, match="not as aerogaze writes it"):
            read(data[:14] + mode + data[22:])


def test_timing_cache_is_included_in_the_bundle(
    make_bundle: Callable[..., Path], key: SigningKey, tmp_path: Path
) -> None:
    (tmp_path / "orin-nano.timing").write_bytes(b"cache")
    with make_bundle(timing_caches=(tmp_path / "orin-nano.timing",)).open("rb") as file:
        manifest = read_bundle(file, "b").manifest
    assert [entry.name for entry in manifest.files if entry.timing_cache] == ["orin-nano.timing"]


def test_manifest_round_trip_is_lossless(key: SigningKey) -> None:
    manifest = parse_manifest(
        {
            "schema": 1, "name": "r", "counter": 3, "over": 7, "runtime": "0.1", "expires": "2027-01-31",
            "compatible": dataclasses.asdict(Compatibility(("orin-nano",), ("8.7",), ("6.2",), ("10.3",))),
            "files": [{"name": "a", "sha256": "0" * 64, "size_bytes": 1, "timing_cache": False}],
            "signers": [key.public_key], "cms_sha256": None,
        }
    )  # fmt: skip
    assert parse_manifest(json.loads(canonical_json.encode(manifest.to_dict()))) == manifest


def test_bundle_command_writes_lists_and_verifies(
    command: Command, small_release: Path, tmp_path: Path
) -> None:
    for name in "kx":
        assert command("keys", "new", "--out", tmp_path / name).code == 0
    path = tmp_path / "b.swu"
    words = ["--compatible", "boards=orin-nx,orin-nano", "--counter", "4", "--expires", "2030-01-31"]
    outcome = command("bundle", small_release, "--key", tmp_path / "k", *words, "--out", path)
    assert outcome.code == 0, outcome.err
    assert "skd-64, counter 4, 5 files" in outcome.out
    listed = command("bundle", "--list", path)
    assert "golden.npz" in listed.out
    manifest = json.loads(command("bundle", "--verify", path, "--trust", tmp_path / "k.pub", "--json").out)
    assert (manifest["counter"], manifest["compatible"]["boards"]) == (4, ["orin-nano", "orin-nx"])
    refused = command("bundle", "--verify", path, "--trust", tmp_path / "x.pub")
    assert refused.code == 1
    assert "signed by 0 of the trusted keys" in refused.err
    assert refused.err.count("\n") == 1


def test_existing_bundle_stays_if_the_release_changes_while_bundling(
    small_release: Path, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, path = Path(shutil.copytree(small_release, tmp_path / "release")), tmp_path / "b.swu"
    write_bundle(release, [key], BundleMetadata(), path)
    before, entry = path.read_bytes(), archive._file_entry

    def change_after_hashing(path: Path, timing_cache: bool) -> BundleFile:
        file_entry = entry(path, timing_cache)
        path.write_bytes(bytes(file_entry.size_bytes))
        return file_entry

    monkeypatch.setattr(archive, "_file_entry", change_after_hashing)
    with pytest.raises(CheckError, match="is not the file that was signed"):
        write_bundle(release, [key], BundleMetadata(counter=2), path)
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.swu", "release"]


def test_listing_a_pipe_exits_with_two(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = command("bundle", "--list", tmp_path / "pipe")
    assert outcome.code == 2
    assert "is not a regular file; expected a bundle" in outcome.err


def test_output_never_overwrites_a_key(command: Command, small_release: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    (tmp_path / "link").symlink_to("k")
    for out in ("k", "link"):
        for words in (["bundle", small_release], ["keys", "trust", tmp_path / "k.pub"]):
            outcome = command(*words, "--key", tmp_path / "k", "--out", tmp_path / out)
            assert outcome.code == 2
            assert "never overwritten" in outcome.err
            assert outcome.err.count("\n") == 1
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{small}", "--out", "{tmp}/b"], "needs a release and a key"),
        (["--verify", "{bundle}"], "needs --trust"),
        (["--verify", "{tmp}/none", "--trust", "{pub}"], "expected a bundle that aerogaze bundle wrote"),
        (["--list", "{tmp}"], "cannot read"),
        (["--list", "{small}/release.json"], "no cpio header"),
        (["{small}", "--key", "{tmp}/none", "--out", "{tmp}/b"], "private key: make one with aerogaze keys"),
        (["--verify", "{bundle}", "--trust", "{tmp}/none"], "expected a .pub of aerogaze keys new, or"),
        (
            ["{small}", "--key", "{key}", "--out", "{tmp}/b", "--timing-cache", "{tmp}/none"],
            "expected a timing cache of TensorRT",
        ),
        ([], "expected one of --out"),
        (["nonsense", "--key", "{key}", "--out", "{tmp}/b"], "no release 'nonsense'"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--compatible", "colour=red"], "=red'"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--compatible", "jetpack=new"], "jetpack cannot"),
        (["{small}", "--key", "{key}", "--key", "{key}", "--out", "{tmp}/b"], "is given twice"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--expires", "soon"], "'soon' is not a date"),
        (["{small}", "--key", "{key}", "--out", "/proc/none/b"], "cannot write /proc/none/b"),
    ],
)  # fmt: skip
def test_invalid_options_exit_with_two_and_write_nothing(
    command: Command, small_release: Path, bundle: Path, tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory, words: list[str], message: str,
) -> None:  # fmt: skip
    keys = tmp_path_factory.mktemp("keys")
    generate_key(keys / "k")
    names = {
        "small": small_release,
        "bundle": bundle,
        "tmp": tmp_path,
        "key": keys / "k",
        "pub": keys / "k.pub",
    }
    outcome = command("bundle", *(word.format(**names) for word in words))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--compatible boards=orinnano", "no board 'orinnano'; expected some of orin-nano, orin-nx"),
        ("--compatible boards=", "no board ''"),
        ("--expires 2020-01-31", "--expires 2020-01-31 is past; expected 20"),
        ("--runtime 99.0", "--runtime 99.0 is newer than this aerogaze"),
        ("--counter 3 --over 2", "--over 2 is not above --counter 3"),
        ("--counter 3 --over 3", "--over 3 is not above --counter 3"),
    ],
)
def test_bundle_that_no_board_could_install_is_not_written(
    command: Command, small_release: Path, tmp_path: Path, options: str, message: str
) -> None:
    generate_key(tmp_path / "k")
    outcome = command(
        "bundle", small_release, "--key", tmp_path / "k", "--out", tmp_path / "b.swu", *options.split()
    )
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "b.swu").exists()


def test_bundle_that_expires_today_or_has_over_is_written(
    command: Command, small_release: Path, tmp_path: Path
) -> None:
    generate_key(tmp_path / "k")
    today = datetime.now(timezone.utc).date().isoformat()
    options = ["--expires", today, "--runtime", version("aerogaze"), "--counter", "3", "--over", "9"]
    outcome = command("bundle", small_release, "--key", tmp_path / "k", "--out", tmp_path / "b.swu", *options)
    assert outcome.code == 0, outcome.err


def test_versions_have_the_order_of_pep_440() -> None:
    ordered = [
        "0.1", "0.1.1", "0.2.0.dev0", "0.2.0.dev1", "0.2.0a1.dev1", "0.2.0a1", "0.2.0b1", "0.2.0rc1",
        "0.2.0rc1.post1", "0.2.0rc2", "0.2.0", "0.2.0.post1.dev1", "0.2.0.post1", "0.2.1.dev0",
        "0.9.9", "0.10",
    ]  # fmt: skip
    assert ordered == sorted(ordered, key=Version)
    keys = [version_key(text) for text in ordered]
    assert all(older < newer for older, newer in pairwise(keys))
    assert version_key("0.1") == version_key("0.1.0") == version_key("0.1.0+local")
    assert version_key("") < version_key("0.0.1.dev0")


@pytest.fixture
def example_manifest(bundle: Path, key: SigningKey) -> dict[str, Any]:
    return read(bundle.read_bytes(), key).manifest.to_dict()


@pytest.mark.parametrize("runtime", ["0.2.0.dev0", "0.2.0rc1", "0.2.0.post1", "0.2"])
def test_manifest_names_a_version_of_aerogaze_also_one_in_development(
    example_manifest: dict[str, Any], runtime: str
) -> None:
    assert parse_manifest({**example_manifest, "runtime": runtime}).runtime == runtime


@pytest.mark.parametrize("runtime", ["", "0.2.dev", "0.2-dev0", "0.2.0.dev0\n", "v0.2", "0.2.0+local"])
def test_manifest_with_another_text_for_a_version_is_rejected(
    example_manifest: dict[str, Any], runtime: str
) -> None:
    with pytest.raises(InputError, match="runtime"):
        parse_manifest({**example_manifest, "runtime": runtime})


def test_prefixes_of_versions_match_whole_numbers() -> None:
    assert version_matches("10.3.0", "10.3")
    assert not version_matches("10.30", "10.3")
    assert not version_matches("10", "10.0")
