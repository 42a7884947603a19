from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import CheckError, InputError
from jetson.signing import keys as signing
from jetson.signing import trust as trusts
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_a_key_is_secret_and_never_written_over(command: Command, tmp_path: Path) -> None:
    outcome = command("keys", "new", "--out", tmp_path / "k")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "k").read_bytes()
    assert signing.load_public_key(tmp_path / "k.pub") == signing.load_signing_key(tmp_path / "k").public_key
    again = command("keys", "new", "--out", tmp_path / "k")
    assert again.code == 2
    assert "is there already" in again.err
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 70_000])
def test_what_is_no_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(InputError, match=r"is no Ed25519 private key|is larger than any key"):
        signing.load_signing_key(tmp_path / "k")
    with pytest.raises(InputError, match=r"is no Ed25519 public key|is larger than any key"):
        signing.load_public_key(tmp_path / "k")


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    signing.generate_key(tmp_path / "k")
    with pytest.raises(InputError, match=r"name the \.pub"):
        signing.load_public_key(tmp_path / "k")


def test_signatures_are_for_one_purpose(key: signing.SigningKey) -> None:
    signatures = signing.sign([key], b"one", b"text")
    signing.verify_signatures(signatures, b"one", b"text", "it")
    for purpose, text in ((b"two", b"text"), (b"one", b"texts")):
        with pytest.raises(CheckError, match="is wrong"):
            signing.verify_signatures(signatures, purpose, text, "it")


def test_trust_is_handed_over_by_those_who_had_it(tmp_path: Path) -> None:
    a, b, c = (signing.generate_key(tmp_path / name) for name in "abc")
    old = trusts.make_trust([a.public_key, b.public_key], threshold=2)
    new = trusts.make_trust([b.public_key, c.public_key], threshold=1, version=2)

    def follows(*signers: signing.SigningKey, trust: trusts.Trust = new) -> None:
        trusts.write_trust(trust, signers, tmp_path / "t.json")
        trusts.verify_succession(old, *trusts.load_trust_document(tmp_path / "t.json"))

    follows(a, b)
    follows(a, b, c)
    with pytest.raises(CheckError, match="signed by 1 of the trusted keys, expected 2"):
        follows(a)
    with pytest.raises(CheckError, match="signed by 1 of the trusted keys"):
        follows(b, c)
    for version in (1, 3):
        with pytest.raises(CheckError, match="expected 2; hand trust over"):
            follows(a, b, trust=trusts.make_trust([c.public_key], 1, version))


def test_each_changed_byte_of_a_trust_document_is_refused(key: signing.SigningKey, tmp_path: Path) -> None:
    place = tmp_path / "t.json"
    trusts.write_trust(trusts.make_trust([key.public_key]), [key], place)
    data = place.read_bytes()
    for at in range(len(data)):
        place.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        with pytest.raises((InputError, CheckError)):
            trusts.load_trust_document(place)


def test_the_command_writes_trust_documents(command: Command, tmp_path: Path) -> None:
    for name in "ab":
        signing.generate_key(tmp_path / name)
    words = ["keys", "trust", tmp_path / "b.pub", "--version", "2", "--out", tmp_path / "t.json"]
    refused = command(*words)
    assert refused.code == 2
    assert "version 2 without signatures" in refused.err
    outcome = command(*words, "--key", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    trust, signatures = trusts.load_trust_document(tmp_path / "t.json")
    assert (trust.version, trust.threshold, len(signatures)) == (2, 1, 1)


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (2, 1), (1, 0)])
def test_a_threshold_that_nobody_or_everybody_meets_is_refused(
    tmp_path: Path, threshold: int, count: int
) -> None:
    keys = [signing.generate_key(tmp_path / str(i)).public_key for i in range(count)]
    with pytest.raises(InputError, match="expected 1 to"):
        trusts.make_trust(keys, threshold)


@pytest.mark.parametrize("name", [".", "..", "there"])
def test_a_folder_is_no_keys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(InputError, match="is a folder: name the key's file in it"):
        signing.generate_key(Path(name) if name != "there" else tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
