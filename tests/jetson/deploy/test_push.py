"""Tests of `aerogaze flash` with a folder as the board, and over a real sshd on loopback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.atomic_files import sha256
from jetson.signing.keys import SigningKey, generate_key
from tests.conftest import Outcome

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy.ssh_target import BLOCK_BYTES, UPLOAD_FOLDER, SshLogin, parse_login
from tests.support.sshd import SshServer, cutting_proxy, generate_ssh_key

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]


@pytest.fixture
def upload_folder(server: SshServer) -> Path:
    """The folder of uploads on the server."""
    return server.home / UPLOAD_FOLDER


@pytest.fixture
def root(command: Command, public_key_file: Path, tmp_path: Path) -> Path:
    """Root of a new board that trusts the key."""
    folder = tmp_path / "drone"
    assert command("device", "trust", public_key_file, "--root", folder).code == 0
    return folder


def read_status(command: Command, root: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(command("device", "status", "--root", root, "--json").out)
    return document


def test_folder_is_flashed_like_a_board(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    first = command("flash", make_bundle(), root)
    assert first.code == 2
    assert "trusts no key yet" in first.err
    assert command("flash", make_bundle(), root, "--trust", public_key_file, "--dry-run").code == 0
    assert not (root / "trust.json").exists()
    outcome = command("flash", make_bundle(), root, "--trust", public_key_file)
    assert outcome.code == 0, outcome.err
    assert "flies skd-64 counter 1 in slot a" in outcome.out
    assert "chose int8: fastest of int8" in outcome.out
    after = json.loads(command("flash", make_bundle(counter=2), root, "--json").out)
    assert (after["counter"], after["slot"]) == (2, "b")
    refused = command("flash", make_bundle(counter=1), root)
    assert refused.code == 1
    assert "this board has flown 2" in refused.err
    bad_policy = command("flash", make_bundle(counter=3), root, "--policy", "fastest within p99<=0.0001")
    assert bad_policy.code == 1
    assert bad_policy.err.splitlines()[-1].startswith("aerogaze: no precision may fly on this board")
    assert read_status(command, root)["counter"] == 2


def test_bundle_that_the_board_would_reject_is_not_sent(
    command: Command, make_bundle: MakeBundle, root: Path, tmp_path: Path
) -> None:
    stranger: SigningKey = generate_key(tmp_path / "stranger")
    refused = command("flash", make_bundle(stranger), root)
    assert refused.code == 1
    assert "trusts none of the keys that signed" in refused.err
    corrupt = tmp_path / "corrupt.swu"
    corrupt.write_bytes(make_bundle().read_bytes()[:-1])
    assert command("flash", corrupt, root).code == 2
    assert not (root / "state.json").exists()


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("pilot@drone-7.local", SshLogin("pilot", "drone-7.local")),
        ("pilot@10.0.0.7:2222", SshLogin("pilot", "10.0.0.7", 2222)),
        ("pilot@[fe80::1%eth0]:22", SshLogin("pilot", "fe80::1%eth0", 22)),
        ("drones/7", None),
        ("./pilot@drone", None),
        ("@drone", None),
    ],
)
def test_login_is_parsed(text: str, login: SshLogin | None) -> None:
    assert parse_login(text) == login


@pytest.mark.parametrize(
    ("target", "message"),
    [("pilot@drone:65536", "port 65536 does not exist"), ("pilot@drone:0", "port 0 does not exist")],
)
def test_invalid_port_is_reported(
    command: Command, make_bundle: MakeBundle, target: str, message: str
) -> None:
    outcome = command("flash", make_bundle(), target)
    assert outcome.code == 2
    assert message in outcome.err


@pytest.mark.parametrize("target", ["drone-7.local", "drone", "pilot@drone:/opt", "10.0.0.8:2222", "@drone"])
def test_mistyped_host_makes_no_folder(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, target: str,
) -> None:  # fmt: skip
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.chdir(empty)
    outcome = command("flash", make_bundle(), target, "--trust", public_key_file)
    assert outcome.code == 2
    assert outcome.err == (
        f"aerogaze: {target!r} is neither a board nor an existing folder; expected user@host, "
        f"user@host:port or a folder: write ./{target} for a new folder that stands in for a board\n"
    )
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("words", ["drone --folder", "./drone", "drone/", "new/drone"])
def test_new_folder_is_written_as_a_path_or_named_with_the_option(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = command("flash", make_bundle(), *words.split(), "--trust", public_key_file)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / words.split()[0] / "trust.json").is_file()
    again = command("flash", make_bundle(), words.removesuffix(" --folder"), "--dry-run")
    assert again.code == 0, "the folder exists now"


def test_identity_that_is_not_a_key_is_reported(
    command: Command, make_bundle: MakeBundle, server: SshServer, tmp_path: Path
) -> None:
    (tmp_path / "id").write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nno\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    arguments = [*server.flash_arguments(), "--identity", tmp_path / "id"]
    outcome = command("flash", make_bundle(), *arguments, "--root", tmp_path / "drone")
    assert outcome.code == 2
    assert "an SSH key cannot be read" in outcome.err.splitlines()[-1]


def test_board_is_flashed_over_ssh(
    command: Command,
    make_bundle: MakeBundle,
    public_key_file: Path,
    server: SshServer,
    upload_folder: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "drone"
    arguments = [*server.flash_arguments(), "--root", root]
    dry = command("flash", make_bundle(), *arguments, "--trust", public_key_file, "--dry-run")
    assert dry.code == 0, dry.err
    assert not root.exists() or not (root / "trust.json").exists()
    outcome = command("flash", make_bundle(), *arguments, "--trust", public_key_file)
    assert outcome.code == 0, outcome.err
    for step in (
        "is complete",
        "verifying the signature",
        "trying int8",
        "switched to slot a",
        "marked good",
    ):
        assert step in outcome.err
    assert "chose int8" in outcome.out
    assert command("flash", make_bundle(counter=2), *arguments).code == 0
    assert read_status(command, root)["counter"] == 2
    assert list(upload_folder.iterdir()) == []
    refused = command("flash", make_bundle(counter=3), *arguments, "--policy", "fastest within p99<=0.0001")
    assert refused.code == 1
    assert "no precision may fly on this board" in refused.err.splitlines()[-1]


@pytest.mark.parametrize("answer", ["", "no", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_board_with_another_status_format_is_reported(
    command: Command, make_bundle: MakeBundle, server: SshServer, tmp_path: Path, answer: str
) -> None:
    program = tmp_path / "aerogaze"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    refused = command("flash", make_bundle(), *server.flash_arguments(), "--aerogaze", program)
    assert refused.code == 2
    assert "has an aerogaze of another version" in refused.err.splitlines()[-1]


def test_changed_or_unknown_host_key_is_refused(
    command: Command, make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    other = tmp_path / "other"
    generate_ssh_key(other)
    for known in ("", f"[127.0.0.1]:{server.port} {other.with_suffix('.pub').read_text()}"):
        (tmp_path / "known").write_text(known)
        arguments = [
            *server.flash_arguments(),
            "--root",
            root,
            "--trust",
            public_key_file,
            "--known-hosts",
            tmp_path / "known",
        ]
        refused = command("flash", make_bundle(), *arguments)
        assert refused.code == 2
        assert "the host key of" in refused.err
        assert refused.err.splitlines()[-1].startswith("aerogaze: ")
    assert not root.exists()


def test_host_keys_are_checked_even_if_the_configuration_disables_it(
    command: Command, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ssh_config(tmp_path, monkeypatch, "UserKnownHostsFile none\n")
    refused = command("flash", make_bundle(), "pilot@127.0.0.1:1")
    assert refused.code == 2
    assert "no host key is checked: name a file with --known-hosts" in refused.err.splitlines()[-1]
    (tmp_path / "known").touch()
    named = command("flash", make_bundle(), "pilot@127.0.0.1:1", "--known-hosts", tmp_path / "known")
    assert "cannot reach" in named.err


def test_match_final_cannot_disable_host_keys(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_ssh_config(tmp_path, monkeypatch, "Match final\n  UserKnownHostsFile none\n")
    arguments = [server.flash_arguments()[0], "--identity", server.identity, "--aerogaze", server.aerogaze]
    refused = command("flash", make_bundle(), *arguments, "--root", tmp_path / "drone")
    assert refused.code == 2
    assert "host key of" in refused.err


def write_ssh_config(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Set a home folder with this ~/.ssh/config and no known hosts."""
    monkeypatch.setenv("HOME", str(home))
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text(text)


def test_key_that_the_board_does_not_accept_is_reported(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    other = tmp_path / "other"
    generate_ssh_key(other)
    refused = command(
        "flash", make_bundle(), *server.flash_arguments(), "--identity", other, "--root", tmp_path / "drone"
    )
    assert refused.code == 2
    assert "accepts none of your keys" in refused.err


def test_board_without_aerogaze_is_reported(
    command: Command, make_bundle: MakeBundle, server: SshServer, tmp_path: Path
) -> None:
    arguments = [*server.flash_arguments(), "--aerogaze", "/no/aerogaze", "--root", tmp_path / "drone"]
    refused = command("flash", make_bundle(), *arguments)
    assert refused.code == 2
    assert "has no /no/aerogaze: name it with --aerogaze PLACE/bin/aerogaze" in refused.err


def test_unreachable_board_is_reported(command: Command, make_bundle: MakeBundle) -> None:
    refused = command("flash", make_bundle(), "pilot@127.0.0.1:1")
    assert refused.code == 2
    assert "cannot reach pilot@127.0.0.1 (Connection refused)" in refused.err


RANDOM = random.Random(7)  # noqa: S311
CUTS = [pytest.param(RANDOM.randrange(1, 400_000), marks=pytest.mark.long) for _ in range(40)]


@pytest.mark.parametrize("after", [500, 60_000, *CUTS])
def test_connection_cut_at_any_byte_is_resumed_or_reported(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    root: Path,
    tmp_path: Path,
    after: int,
) -> None:
    known = tmp_path / "known"
    with cutting_proxy(server.port, after, times=1) as proxy:
        known.write_text(server.known_hosts.read_text())
        arguments = [*server.flash_arguments(proxy.port), "--known-hosts", known, "--root", root]
        first = command("flash", make_bundle(), *arguments)
        assert first.code in (0, 2), first.err
        if first.code:
            assert first.err.splitlines()[-1].startswith("aerogaze: ")
            again = command("flash", make_bundle(), *arguments)
            assert again.code == 0, again.err
        assert first.code == 0 or after < 60_000, "a cut upload is resumed"
    assert read_status(command, root)["state"] == "good"


def test_resumed_upload_logs_nothing_of_the_ssh_library(
    make_bundle: MakeBundle, public_key_file: Path, server: SshServer, tmp_path: Path
) -> None:
    with cutting_proxy(server.port, BLOCK_BYTES // 2, times=1) as proxy:
        arguments = [
            *server.flash_arguments(proxy.port),
            "--root",
            tmp_path / "drone",
            "--trust",
            public_key_file,
        ]
        bundle = make_bundle(timing_caches=(write_large_cache(tmp_path),))
        command = [sys.executable, "-m", "edge.cli.main", "flash", bundle, *arguments]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert proxy.sent > 3 * BLOCK_BYTES
    assert "Traceback" not in result.stderr
    assert "Task exception" not in result.stderr


@pytest.mark.parametrize("is_corrupt", [False, True])
def test_upload_resumes_unless_the_part_on_the_board_is_corrupt(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    root: Path,
    upload_folder: Path,
    tmp_path: Path,
    is_corrupt: bool,
) -> None:
    bundle = make_bundle(timing_caches=(write_large_cache(tmp_path),))
    part = upload_folder / f"{sha256(bundle)}.swu"
    upload_folder.mkdir(parents=True, exist_ok=True)
    first_bytes = bundle.read_bytes()[: 2 * BLOCK_BYTES + 1000]
    part.write_bytes(b"?" + first_bytes[1:] if is_corrupt else first_bytes)
    with cutting_proxy(server.port, 1 << 40, times=0) as proxy:
        outcome = command("flash", bundle, *server.flash_arguments(proxy.port), "--root", root)
    assert outcome.code == 0, outcome.err
    size = bundle.stat().st_size
    assert (
        (size if is_corrupt else size - 2 * BLOCK_BYTES)
        < proxy.sent
        < size + (0 if not is_corrupt else BLOCK_BYTES)
    )
    assert read_status(command, root)["state"] == "good"


def test_upload_of_an_interrupted_flash_is_removed_by_the_next_one(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    root: Path,
    upload_folder: Path,
) -> None:
    now = time.time()
    upload_folder.mkdir(parents=True, exist_ok=True)
    earlier, later, active = (f"{number:064x}.swu" for number in (1, 2, 3))
    ours = {earlier: now - 600, later: now + 600, active: now}  # the board's clock may have been wrong
    foreign = {"notes.txt": now - 600, f"{1:064x}.swu.bak": now - 600, f"{1:064x}": now}
    for name, time_s in (ours | foreign).items():
        (upload_folder / name).write_bytes(b"part")
        os.utime(upload_folder / name, (time_s, time_s))
    (upload_folder / f"{4:064x}.swu").mkdir()
    os.utime(upload_folder / f"{4:064x}.swu", (now - 600, now - 600))
    outcome = command("flash", make_bundle(), *server.flash_arguments(), "--root", root)
    assert outcome.code == 0, outcome.err
    left = {entry.name for entry in upload_folder.iterdir()} - {"wheels"}
    assert left == {active, *foreign, f"{4:064x}.swu"}, "another desk may be sending what is new"
    for name in left:
        entry = upload_folder / name
        entry.rmdir() if entry.is_dir() else entry.unlink()


def write_large_cache(tmp_path: Path) -> Path:
    path = tmp_path / "big.timing"
    path.write_bytes(os.urandom(3 * BLOCK_BYTES))
    return path


def test_two_flashes_at_the_same_time_leave_a_good_board(
    command: Command,
    make_bundle: MakeBundle,
    server: SshServer,
    root: Path,
) -> None:
    arguments = [sys.executable, "-m", "edge.cli.main", "flash"]
    processes = [
        subprocess.Popen(
            [*arguments, str(make_bundle(counter=counter)), *server.flash_arguments(), "--root", str(root)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for counter in (1, 2)
    ]  # fmt: skip
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert any(code == 0 for _, code in results), results
    for err, code in results:
        is_loser = "another aerogaze command works on the board" in err or "this board has flown 2" in err
        assert code == 0 or is_loser, err
    assert read_status(command, root)["state"] == "good"
    command("device", "verify", "--root", root)
