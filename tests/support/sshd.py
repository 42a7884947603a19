"""A real sshd on loopback, with keys and a home of its own; and a wire to it that can be cut."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SFTP = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh")
ROOT = Path(__file__).parent.parent.parent

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {here}/host
AuthorizedKeysFile {here}/authorized
PidFile {here}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp {sftp}
ForceCommand export HOME={home}; cd {home} && eval "$SSH_ORIGINAL_COMMAND"
"""
"""Its own home keeps what other tests upload, in this run or another, apart."""


@dataclass(frozen=True)
class SshServer:
    """Where it listens, and the files that a client needs."""

    port: int
    identity: Path
    known_hosts: Path
    aerogaze: Path
    home: Path

    def words(self, port: int | None = None) -> list[str]:
        """Return target and options of `aerogaze flash`."""
        return [
            f"{getpass.getuser()}@127.0.0.1:{port or self.port}", "--identity", str(self.identity),
            "--known-hosts", str(self.known_hosts), "--aerogaze", str(self.aerogaze),
        ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def generate_ssh_key(place: Path) -> None:
    """Write a key to `place` and its public half to `place.pub`."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(place))
    place.chmod(0o600)
    key.write_public_key(f"{place}.pub")


@contextmanager
def sshd(here: Path) -> Iterator[SshServer]:
    """Run sshd until the block ends; `aerogaze` there is ours."""
    for name in ("host", "user"):
        generate_ssh_key(here / name)
    shutil.copy(here / "user.pub", here / "authorized")
    port = free_port()
    aerogaze = here / "aerogaze"
    aerogaze.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m edge.cli.main "$@"\n')
    aerogaze.chmod(0o755)
    home = here / "home"
    home.mkdir()
    (here / "config").write_text(CONFIG.format(port=port, here=here, home=home, sftp=SFTP))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd keeps apart what it does not trust
    host = (here / "host.pub").read_text()
    known = here / "known_hosts"
    known.write_text(f"127.0.0.1 {host}")  # asyncssh takes a host's key for any of its ports, too
    with (here / "log").open("w") as log:
        words = [str(SSHD), "-D", "-e", "-f", str(here / "config")]
        process = subprocess.Popen(words, stderr=log)
        try:
            _wait(port, process, here / "log")
            yield SshServer(port, here / "user", known, aerogaze, home)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {log.read_text()}")


@dataclass
class CuttingProxy:
    """A port that leads to another one, and how many bytes were sent there."""

    port: int
    sent: int = 0


@contextmanager
def cutting_proxy(port: int, after: int, times: int) -> Iterator[CuttingProxy]:
    """Give a wire that leads to another; the first `times` connections are cut after so many bytes sent."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    wire = CuttingProxy(int(server.getsockname()[1]))
    stop, threads = threading.Event(), []

    def pump(source: socket.socket, sink: socket.socket, most: float, sends: bool) -> None:
        passed = 0.0
        with suppress(OSError):
            while passed < most and (data := source.recv(65536)):
                sink.sendall(data[: int(min(len(data), most - passed))])
                passed += len(data)
                wire.sent += len(data) * sends
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        count = 0
        while not stop.is_set():
            try:
                near, _ = server.accept()
            except TimeoutError:
                continue
            far = socket.create_connection(("127.0.0.1", port))
            ends.extend((near, far))
            count += 1
            most = after if count <= times else float("inf")
            for words in ((near, far, most, True), (far, near, float("inf"), False)):
                threads.append(threading.Thread(target=pump, args=words))
                threads[-1].start()

    ends: list[socket.socket] = []
    main = threading.Thread(target=serve)
    main.start()
    try:
        yield wire
    finally:
        stop.set()
        main.join()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in [*ends, server]:
            end.close()
