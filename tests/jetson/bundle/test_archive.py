"""One release, one bundle, to the byte; any other byte is refused."""

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
from pathlib import Path

import pytest

from edge.core.errors import CheckError, InputError
from jetson.bundle import archive as bundles
from jetson.bundle import cpio
from jetson.bundle.archive import BundleMetadata, read_bundle, write_bundle
from jetson.bundle.manifest import BundleFile, Compatibility, parse_manifest, version_key, version_matches
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import SigningKey, generate_key, sign
from jetson.signing.trust import make_trust
from tests.conftest import Outcome

Command = Callable[..., Outcome]
Refused = (InputError, CheckError)


def read(data: bytes, key: SigningKey | None = None) -> bundles.SignedManifest:
    return read_bundle(io.BytesIO(data), "b.swu", make_trust([key.public_key]) if key else None)


def test_the_same_release_gives_the_same_file(
    small: Path, key: SigningKey, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "elsewhere"))
    (copy / "notes.txt").write_text("not part of the release")
    write_bundle(copy, [key], BundleMetadata(), tmp_path / "again.swu")
    assert (tmp_path / "again.swu").read_bytes() == bundle.read_bytes()


def test_what_was_put_in_comes_out(small: Path, key: SigningKey, bundle: Path) -> None:
    found: dict[str, bytes] = {}
    with bundle.open("rb") as file:
        read_bundle(
            file,
            "b",
            make_trust([key.public_key]),
            lambda entry, blocks: found.__setitem__(entry.name, b"".join(blocks)),
        )
    assert found == {path.name: path.read_bytes() for path in small.iterdir()}


def flip(data: bytes, count: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    for _ in range(count):
        at = chance.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= chance.randrange(1, 256)
        with pytest.raises(Refused):
            read(bytes(changed))


def test_a_changed_byte_is_refused(bundle: Path) -> None:
    data = bundle.read_bytes()
    flip(data, 300, seed=1)
    for at in [*range(6000), *range(len(data) - 600, len(data))][::7]:  # descriptions, padding, trailer
        with pytest.raises(Refused):
            read(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])


def test_bytes_put_in_taken_out_or_doubled_are_refused(bundle: Path) -> None:
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
            with pytest.raises(Refused):
                read(changed)


@pytest.mark.long
def test_ten_thousand_changed_bytes_are_refused(bundle: Path) -> None:
    flip(bundle.read_bytes(), 10_000, seed=2)


def test_a_cut_or_longer_bundle_is_refused(bundle: Path) -> None:
    data = bundle.read_bytes()
    read(data)
    for size in (0, 1, 109, 110, 5000, len(data) // 2, len(data) - 512, len(data) - 1):
        with pytest.raises(InputError, match="ends too early"):
            read(data[:size])
    for more in (b"\0", b"\0" * 512, data):
        with pytest.raises(InputError, match="goes on after its end"):
            read(data + more)


def test_an_unknown_key_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys, expected 1"):
        read(bundle.read_bytes(), generate_key(tmp_path / "other"))


def test_so_many_of_the_keys_must_sign(make: Callable[..., Path], key: SigningKey, tmp_path: Path) -> None:
    second, third = generate_key(tmp_path / "2"), generate_key(tmp_path / "3")
    trust = make_trust([key.public_key, second.public_key, third.public_key], threshold=2)
    with make(key, third).open("rb") as file:
        assert len(read_bundle(file, "b", trust).signatures) == 2
    with (
        make(key).open("rb") as file,
        pytest.raises(CheckError, match="by 1 of the trusted keys, expected 2"),
    ):
        read_bundle(file, "b", trust)


def rewrite(bundle: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    """Write a bundle's members anew, changed, in right cpio."""
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


def test_rewriting_unchanged_is_the_same(bundle: Path) -> None:
    assert rewrite(bundle, lambda members: members) == bundle.read_bytes()


def test_swapped_parts_are_refused(
    make: Callable[..., Path], bundle: Path, key: SigningKey, tmp_path: Path
) -> None:
    other = make(counter=9)
    taken: dict[str, bytes] = {}

    def take(members: dict[str, bytes]) -> dict[str, bytes]:
        taken.update(members)
        return members

    rewrite(other, take)
    for name in ("sw-description", "manifest.json", "signatures.json"):
        swapped = {name: taken[name]}
        with pytest.raises(Refused):
            read(rewrite(bundle, lambda members: {**members, **swapped}))  # noqa: B023
    two = make(key, generate_key(tmp_path / "2"))

    def one_signature(members: dict[str, bytes]) -> dict[str, bytes]:
        signatures = canonical.decode(members["signatures.json"], "s")
        del signatures[next(s for s in signatures if s != key.public_key)]
        return {**members, "signatures.json": canonical.encode(signatures)}

    with pytest.raises(CheckError, match="a signature was taken away or added"):
        read(rewrite(two, one_signature))


def test_a_file_more_or_less_or_in_another_order_is_refused(bundle: Path) -> None:
    for change in (
        lambda m: {**m, "more.onnx": b"x"},
        lambda m: dict(list(m.items())[:-1]),
        lambda m: dict(list(m.items())[:3] + list(m.items())[:2:-1]),
        lambda m: {**m, list(m)[-1]: b"another"},
    ):
        with pytest.raises(Refused):
            read(rewrite(bundle, change))


def signed(
    key: SigningKey, members: dict[str, bytes], change: Callable[[dict[str, object]], object]
) -> dict[str, bytes]:
    """Change the manifest and sign it again: what the holder of a key could do."""
    document = json.loads(members["manifest.json"])
    change(document)
    text = canonical.encode(document)
    signatures = canonical.encode(sign([key], bundles.BUNDLE_PURPOSE, text))
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
        (lambda d: d.update(expires="2027-02-30"), "is no day"),
        (lambda d: d.update(runtime="latest"), "runtime cannot be 'latest'"),
        (lambda d: d["compatible"].update(boards=["Orin Nano\n"]), "boards cannot be"),
        (lambda d: d.update(name='x"; } evil'), "name cannot be"),
    ],
)  # fmt: skip
def test_a_manifest_with_tricks_is_refused_even_signed(
    bundle: Path, key: SigningKey, change: Callable[[dict[str, object]], object], message: str
) -> None:
    data = rewrite(bundle, lambda members: signed(key, members, change))
    with pytest.raises(InputError, match=message):
        read(data, key)


def test_nothing_is_given_out_before_the_signature_is_right(bundle: Path, tmp_path: Path) -> None:
    trust, given = make_trust([generate_key(tmp_path / "other").public_key]), []
    with bundle.open("rb") as file, pytest.raises(CheckError):
        read_bundle(file, "b", trust, lambda entry, blocks: given.append(entry))
    assert given == []


def test_huge_sizes_cost_no_memory(bundle: Path) -> None:
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


def test_links_and_folders_are_no_members(bundle: Path) -> None:
    data = bundle.read_bytes()
    for mode in (b"0000A1FF", b"000041ED", b"000081ED"):
        with pytest.raises(InputError, match="not as aerogaze writes it"):
            read(data[:14] + mode + data[22:])


def test_a_timing_cache_is_carried(make: Callable[..., Path], key: SigningKey, tmp_path: Path) -> None:
    (tmp_path / "orin-nano.timing").write_bytes(b"cache")
    with make(timing_caches=(tmp_path / "orin-nano.timing",)).open("rb") as file:
        manifest = read_bundle(file, "b").manifest
    assert [entry.name for entry in manifest.files if entry.timing_cache] == ["orin-nano.timing"]


def test_a_manifest_reads_as_it_was_written(key: SigningKey) -> None:
    manifest = parse_manifest(
        {
            "schema": 1, "name": "r", "counter": 3, "over": 7, "runtime": "0.1", "expires": "2027-01-31",
            "compatible": dataclasses.asdict(Compatibility(("orin-nano",), ("8.7",), ("6.2",), ("10.3",))),
            "files": [{"name": "a", "sha256": "0" * 64, "size_bytes": 1, "timing_cache": False}],
            "signers": [key.public_key], "cms_sha256": None,
        }
    )  # fmt: skip
    assert parse_manifest(json.loads(canonical.encode(manifest.to_dict()))) == manifest


def test_the_commands_write_list_and_verify(command: Command, small: Path, tmp_path: Path) -> None:
    for name in "kx":
        assert command("keys", "new", "--out", tmp_path / name).code == 0
    place = tmp_path / "b.swu"
    words = ["--compatible", "boards=orin-nx,orin-nano", "--counter", "4", "--expires", "2030-01-31"]
    outcome = command("bundle", small, "--key", tmp_path / "k", *words, "--out", place)
    assert outcome.code == 0, outcome.err
    assert "skd-64, counter 4, 5 files" in outcome.out
    listed = command("bundle", "--list", place)
    assert "golden.npz" in listed.out
    told = json.loads(command("bundle", "--verify", place, "--trust", tmp_path / "k.pub", "--json").out)
    assert (told["counter"], told["compatible"]["boards"]) == (4, ["orin-nano", "orin-nx"])
    refused = command("bundle", "--verify", place, "--trust", tmp_path / "x.pub")
    assert refused.code == 1
    assert "signed by 0 of the trusted keys" in refused.err
    assert refused.err.count("\n") == 1


def test_a_release_that_changes_while_it_is_bundled_leaves_the_older_bundle(
    small: Path, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, place = Path(shutil.copytree(small, tmp_path / "release")), tmp_path / "b.swu"
    write_bundle(release, [key], BundleMetadata(), place)
    before, entry = place.read_bytes(), bundles._entry

    def changed(path: Path, timing_cache: bool) -> BundleFile:
        found = entry(path, timing_cache)
        path.write_bytes(bytes(found.size_bytes))
        return found

    monkeypatch.setattr(bundles, "_entry", changed)
    with pytest.raises(CheckError, match="is not the file that was signed"):
        write_bundle(release, [key], BundleMetadata(counter=2), place)
    assert place.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.swu", "release"]


def test_a_pipe_is_no_bundle(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    outcome = command("bundle", "--list", tmp_path / "pipe")
    assert outcome.code == 2
    assert "is no file; expected a bundle" in outcome.err


def test_no_key_is_written_over(command: Command, small: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    (tmp_path / "link").symlink_to("k")
    for out in ("k", "link"):
        for words in (["bundle", small], ["keys", "trust", tmp_path / "k.pub"]):
            outcome = command(*words, "--key", tmp_path / "k", "--out", tmp_path / out)
            assert outcome.code == 2
            assert "never written over" in outcome.err
            assert outcome.err.count("\n") == 1
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{small}", "--out", "{tmp}/b"], "needs a release and a key"),
        (["--verify", "{bundle}"], "needs --trust"),
        (["--verify", "{tmp}/none", "--trust", "{pub}"], "cannot read"),
        (["--list", "{tmp}"], "cannot read"),
        (["--list", "{small}/release.json"], "no cpio header"),
        ([], "expected one of --out"),
        (["nonsense", "--key", "{key}", "--out", "{tmp}/b"], "no release 'nonsense'"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--compatible", "colour=red"], "=red'"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--compatible", "jetpack=new"], "jetpack cannot"),
        (["{small}", "--key", "{key}", "--key", "{key}", "--out", "{tmp}/b"], "is given twice"),
        (["{small}", "--key", "{key}", "--out", "{tmp}/b", "--expires", "soon"], "'soon' is no day"),
        (["{small}", "--key", "{key}", "--out", "/proc/none/b"], "cannot write /proc/none/b"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_writes_nothing(
    command: Command, small: Path, bundle: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    words: list[str], message: str,
) -> None:  # fmt: skip
    keys = tmp_path_factory.mktemp("keys")
    generate_key(keys / "k")
    names = {"small": small, "bundle": bundle, "tmp": tmp_path, "key": keys / "k", "pub": keys / "k.pub"}
    outcome = command("bundle", *(word.format(**names) for word in words))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("--compatible boards=orinnano", "no board 'orinnano'; expected some of orin-nano, orin-nx"),
        ("--compatible boards=", "no board ''"),
        ("--expires 2020-01-31", "--expires 2020-01-31 is past; expected 20"),
        ("--runtime 99.0", "--runtime 99.0 is newer than this aerogaze"),
        ("--counter 3 --over 2", "--over 2 is not above --counter 3"),
        ("--counter 3 --over 3", "--over 3 is not above --counter 3"),
    ],
)
def test_a_bundle_that_no_board_could_take_is_not_written(
    command: Command, small: Path, tmp_path: Path, wish: str, message: str
) -> None:
    generate_key(tmp_path / "k")
    outcome = command("bundle", small, "--key", tmp_path / "k", "--out", tmp_path / "b.swu", *wish.split())
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "b.swu").exists()


def test_a_bundle_may_expire_today_and_go_back(command: Command, small: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "k")
    today = datetime.now(timezone.utc).date().isoformat()
    wishes = ["--expires", today, "--runtime", version("aerogaze"), "--counter", "3", "--over", "9"]
    outcome = command("bundle", small, "--key", tmp_path / "k", "--out", tmp_path / "b.swu", *wishes)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("older", "newer"), [("0.1", "0.1.1"), ("0.9.9", "0.10"), ("1.0.dev3", "1.1"), ("", "0.0.1")]
)
def test_versions_are_compared_by_their_numbers(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)
    assert version_key("0.1") == version_key("0.1.0") == version_key("0.1.0rc1")
    assert version_matches("10.3.0", "10.3")
    assert not version_matches("10.30", "10.3")
    assert not version_matches("10", "10.0")
