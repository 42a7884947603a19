"""Signing keys, signatures and trust documents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import CheckError, InputError
from jetson.signing.keys import (
    SigningKey,
    generate_key,
    load_public_key,
    load_signing_key,
    sign,
    verify_signatures,
)
from jetson.signing.trust import Trust, load_trust_document, make_trust, verify_succession, write_trust
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_new_key_is_private_and_never_overwritten(command: Command, tmp_path: Path) -> None:
    outcome = command("keys", "new", "--out", tmp_path / "k")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "k").read_bytes()
    assert load_public_key(tmp_path / "k.pub") == load_signing_key(tmp_path / "k").public_key
    again = command("keys", "new", "--out", tmp_path / "k")
    assert again.code == 2
    assert "already exists" in again.err
    assert (tmp_path / "k").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 70_000])
def test_loading_a_file_that_is_not_a_key_raises_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(InputError, match=r"is not an Ed25519 private key|is larger than 65536 bytes"):
        load_signing_key(tmp_path / "k")
    with pytest.raises(InputError, match=r"is not an Ed25519 public key|is larger than 65536 bytes"):
        load_public_key(tmp_path / "k")


def test_loading_a_private_key_as_public_key_raises_input_error(tmp_path: Path) -> None:
    generate_key(tmp_path / "k")
    with pytest.raises(InputError, match=r"name the \.pub"):
        load_public_key(tmp_path / "k")


def test_signature_is_invalid_for_another_purpose_or_message(key: SigningKey) -> None:
    signatures = sign([key], b"one", b"text")
    verify_signatures(signatures, b"one", b"text", "it")
    for purpose, text in ((b"two", b"text"), (b"one", b"texts")):
        with pytest.raises(CheckError, match="is wrong"):
            verify_signatures(signatures, purpose, text, "it")


def test_succession_needs_threshold_of_old_keys_and_next_version(tmp_path: Path) -> None:
    a, b, c = (generate_key(tmp_path / name) for name in "abc")
    old = make_trust([a.public_key, b.public_key], threshold=2)
    new = make_trust([b.public_key, c.public_key], threshold=1, version=2)

    def check_successor(*signers: SigningKey, trust: Trust = new) -> None:
        write_trust(trust, signers, tmp_path / "t.json")
        verify_succession(old, *load_trust_document(tmp_path / "t.json"))

    check_successor(a, b)
    check_successor(a, b, c)
    with pytest.raises(CheckError, match="signed by 1 of the trusted keys, expected 2"):
        check_successor(a)
    with pytest.raises(CheckError, match="signed by 1 of the trusted keys"):
        check_successor(b, c)
    for version in (1, 3):
        with pytest.raises(CheckError, match="expected 2; apply the trust documents"):
            check_successor(a, b, trust=make_trust([c.public_key], 1, version))


def test_trust_document_with_any_changed_byte_is_rejected(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_trust(make_trust([key.public_key]), [key], path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        with pytest.raises((InputError, CheckError)):
            load_trust_document(path)


def test_keys_trust_command_writes_signed_document(command: Command, tmp_path: Path) -> None:
    for name in "ab":
        generate_key(tmp_path / name)
    words = ["keys", "trust", tmp_path / "b.pub", "--version", "2", "--out", tmp_path / "t.json"]
    refused = command(*words)
    assert refused.code == 2
    assert "version 2 without signatures" in refused.err
    outcome = command(*words, "--key", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    trust, signatures = load_trust_document(tmp_path / "t.json")
    assert (trust.version, trust.threshold, len(signatures)) == (2, 1, 1)


@pytest.mark.parametrize(("threshold", "count"), [(0, 1), (2, 1), (1, 0)])
def test_threshold_outside_one_to_key_count_is_rejected(tmp_path: Path, threshold: int, count: int) -> None:
    keys = [generate_key(tmp_path / str(i)).public_key for i in range(count)]
    with pytest.raises(InputError, match="expected 1 to"):
        make_trust(keys, threshold)


@pytest.mark.parametrize(
    ("version", "fits"), [("3.3.2", False), ("3.4.8", True), ("38.0.4", True), ("50", True)]
)
def test_old_cryptography_is_one_line_and_no_traceback(version: str, fits: bool) -> None:
    code = (
        f"import sys, cryptography; cryptography.__version__ = {version!r}\n"
        "from edge.cli.main import run_cli; sys.exit(run_cli(['keys', 'new', '--help']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == (0 if fits else 2)
    if not fits:
        assert result.stderr == (
            "aerogaze: cryptography 3.3.2 is too old; expected 3.4 or later: "
            "pip install --upgrade cryptography\n"
        )


def test_public_key_functions_are_those_of_old_versions() -> None:
    # `public_bytes_raw` and its kin need cryptography 40.
    for path in (Path(__file__).parents[3] / "jetson").rglob("*.py"):
        assert "bytes_raw()" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", [".", "..", "there"])
def test_new_key_refuses_a_folder_as_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(InputError, match="is a folder: name a file in it for the key"):
        generate_key(Path(name) if name != "there" else tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
