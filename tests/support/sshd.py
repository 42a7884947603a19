"""A real sshd on loopback with keys and a home folder of its own, and a proxy that cuts connections to it."""

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

from tests.support.ports import free_tcp_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SFTP_SERVER = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh")
ROOT = Path(__file__).parent.parent.parent

# A home folder of this server's own: apart from the uploads of other tests and runs, and without this user's
# .bashrc. A bash that sshd starts reads it for each command; with pyenv in it, that takes 0.2 seconds.
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp {sftp}
SetEnv HOME={home}
ForceCommand cd && eval "$SSH_ORIGINAL_COMMAND"
"""


@dataclass(frozen=True)
class SshServer:
    """A running sshd, and the files that a client needs.

    Attributes:
        port: Port on 127.0.0.1.
        identity: Private key that the server accepts.
        known_hosts: File with the server's host key.
        aerogaze: Command on the server that runs this checkout.
        home: Home folder on the server.
    """

    port: int
    identity: Path
    known_hosts: Path
    aerogaze: Path
    home: Path

    def flash_arguments(self, port: int | None = None) -> list[str]:
        """Return target and options of `aerogaze flash`, the command on the server last."""
        return [
            f"{getpass.getuser()}@127.0.0.1:{port or self.port}", "--identity", str(self.identity),
            "--known-hosts", str(self.known_hosts), "--aerogaze", str(self.aerogaze),
        ]  # fmt: skip


def generate_ssh_key(path: Path) -> None:
    """Write a private key to `path` and its public key to `path.pub`."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(path))
    path.chmod(0o600)
    key.write_public_key(f"{path}.pub")


@contextmanager
def run_sshd(folder: Path) -> Iterator[SshServer]:
    """Run an sshd with its files in a folder until the block ends."""
    for name in ("host", "user"):
        generate_ssh_key(folder / name)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = free_tcp_port()
    aerogaze = folder / "aerogaze"
    aerogaze.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m edge.cli.main "$@"\n')
    aerogaze.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, home=home, sftp=SFTP_SERVER))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the sshd of root needs it for privilege separation
    host_key = (folder / "host.pub").read_text()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"127.0.0.1 {host_key}")  # asyncssh accepts the host's key for all of its ports
    with (folder / "log").open("w") as log:
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "config")]
        process = subprocess.Popen(command, stderr=log)
        try:
            _wait_for_port(port, process, folder / "log")
            yield SshServer(port, folder / "user", known_hosts, aerogaze, home)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {log.read_text()}")


@dataclass
class CuttingProxy:
    """Port of a proxy to another port, and the number of bytes that clients sent through it."""

    port: int
    sent: int = 0


@contextmanager
def cutting_proxy(port: int, after: int, times: int) -> Iterator[CuttingProxy]:
    """Run a proxy to a port that cuts its first connections.

    Args:
        port: Port on 127.0.0.1 to forward to.
        after: Number of bytes from the client after which a connection is cut.
        times: Number of connections to cut; later ones are complete.
    """
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    proxy = CuttingProxy(int(server.getsockname()[1]))
    stop = threading.Event()
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def forward(source: socket.socket, sink: socket.socket, limit: float, is_upload: bool) -> None:
        passed = 0.0
        with suppress(OSError):
            while passed < limit and (data := source.recv(65536)):
                sink.sendall(data[: int(min(len(data), limit - passed))])
                passed += len(data)
                proxy.sent += len(data) * is_upload
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        count = 0
        while not stop.is_set():
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            upstream = socket.create_connection(("127.0.0.1", port))
            sockets.extend((client, upstream))
            count += 1
            limit = after if count <= times else float("inf")
            for arguments in ((client, upstream, limit, True), (upstream, client, float("inf"), False)):
                threads.append(threading.Thread(target=forward, args=arguments))
                threads[-1].start()

    acceptor = threading.Thread(target=serve)
    acceptor.start()
    try:
        yield proxy
    finally:
        stop.set()
        acceptor.join()
        for end in sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in [*sockets, server]:
            end.close()
