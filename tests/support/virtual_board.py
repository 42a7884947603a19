"""A virtual board: Debian with its real systemd and sshd in a container, on a disk whose plug can be pulled.

systemd-nspawn boots an ext4 image that lies on btrfs. A reflink copy of the image takes some milliseconds
and is exact: it holds what the kernel had written to this "disk", and nothing that was only in memory. A
power cut leaves the same, except for writes that a drive reorders (`tests.support.disks.LossyDisk` has
those).

The board has no network but a cable to the desk, which is a network namespace of its own.

The process that sets up a desk mounts all disks and networks in a mount namespace of its own. So the kernel
removes them with the process, also if it is killed.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "mkfs.btrfs": "btrfs-progs",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "losetup": "mount",
}
"""Programs that a virtual board needs, each with its Debian package."""
USER = "pilot"
OPEN_CONTAINER = (
    "--capability=CAP_BPF,CAP_PERFMON",
    "--system-call-filter=bpf modify_ldt @clock",
    "--bind=/dev/fuse",
)
"""The board's systemd needs BPF to enforce DevicePolicy=. The rest lets the unit be what forbids it."""
NETWORK = "192.0.2"
"""Start of the addresses of desk and boards: those that are reserved for documentation."""

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
"""Mounts and a network, in the numbers of the kernel."""


def missing_for_boards() -> str | None:
    """Return why no virtual board can run on this machine; None if one can."""
    if os.getuid() != 0:
        return "only root can start a virtual board"
    if missing := missing_packages(PROGRAMS):
        return missing
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices here (modprobe loop)"
    supported = Path("/proc/filesystems").read_text().split()
    lacking = [name for name in ("ext4", "btrfs") if name not in supported]
    return f"this kernel has no {', '.join(lacking)}" if lacking else None


def missing_packages(programs: Mapping[str, str]) -> str | None:
    """Return which Debian packages are missing, of programs with their packages; None if none is."""
    missing = sorted(package for program, package in programs.items() if shutil.which(program) is None)
    return f"no {', '.join(missing)} here (apt-get install {' '.join(missing)})" if missing else None


def call(*words: str | Path, limit_s: float = 120) -> str:
    """Run a program of this machine and return what it printed.

    Raises:
        RuntimeError: It failed; with its last lines.
    """
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=limit_s)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed with {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout


@functools.cache
def keep_mounts_private() -> None:
    """Let mounts of this thread, and of what it starts, be seen by no one else and end with this process.

    What a killed session had mounted would otherwise stay, and no later session could remove its folder.
    """
    if _libc().unshare(CLONE_NEWNS):
        _raise_errno()
    call("mount", "--make-rprivate", "/")
    # `ip netns` makes a file and a mount for each network.
    Path("/run/netns").mkdir(exist_ok=True)
    call("mount", "-t", "tmpfs", "aerogaze", "/run/netns")


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """Mount an image until the block ends."""
    keep_mounts_private()
    place.mkdir(exist_ok=True)
    call("mount", "-o", "loop,noatime", image, place)
    try:
        yield place
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """Write all that is left, and unmount a file system as soon as the last process has left it."""
    # A container that has just started may hold the mount, too: then only this call writes what is left.
    call("sync", "--file-system", place)
    for _ in range(100):
        if subprocess.run(["/bin/umount", place], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    call("umount", "--lazy", place)


@dataclass
class Desk:
    """The desk: a disk for images that can be cloned, and a network that only its boards share.

    Attributes:
        folder: Its folder; `folder/disk` lies on btrfs.
        identity: Private SSH key for the boards.
        network: Name of its network namespace.
    """

    folder: Path
    identity: Path
    network: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(2, 250)))

    @property
    def disk(self) -> Path:
        """Folder whose files can be cloned."""
        return self.folder / "disk"

    def clone(self, image: Path, name: str) -> Path:
        """Copy an image to the disk. An image that lies there already takes no time and no space."""
        copy = self.disk / name
        call("cp", "--reflink=auto", "--sparse=always", image, copy)
        return copy

    def run(
        self, *words: str | Path, environment: Mapping[str, str] | None = None, limit_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the desk's network."""
        variables = {**os.environ, **(environment or {})}
        command = self.command(*words)
        return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, env=variables)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs a program in the desk's network."""
        return ["nsenter", f"--net=/run/netns/{self.network}", "--", *map(str, words)]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread, and the programs that it starts, be in the desk's network in the block."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        network = os.open(f"/run/netns/{self.network}", os.O_RDONLY)
        try:
            _set_network(network)
            try:
                yield
            finally:
                _set_network(own)
        finally:
            os.close(own)
            os.close(network)

    @contextmanager
    def board(self, image: Path, *options: str) -> Iterator[Board]:
        """Put a disk, which the board will change, into a new board; it is off at first and in the end.

        Args:
            image: The disk.
            *options: Options of systemd-nspawn, as `--bind=FOLDER`.
        """
        number = next(self._numbers)
        name = f"{self.network}-{number}"
        call("ip", "netns", "add", name)
        try:
            end = f"b{os.getpid() % 1000000}-{number}"  # a name of at most 15 characters
            call("ip", "-n", self.network, "link", "add", end, "type", "veth", "peer", "cable", "netns", name)
            call("ip", "-n", self.network, "link", "set", end, "master", "desk", "up")
            call("ip", "-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", "cable")
            for link in ("cable", "lo"):
                call("ip", "-n", name, "link", "set", link, "up")
            board = Board(self, name, f"{NETWORK}.{number}", image, end, options)
            try:
                yield board
            finally:
                if board.is_on:
                    board.pull_plug()
        finally:
            subprocess.run(["/bin/ip", "netns", "delete", name], capture_output=True)


@contextmanager
def desk_with_disk(folder: Path, identity: Path, size_mb: int = 24_000) -> Iterator[Desk]:
    """Set up a desk in a folder until the block ends.

    Args:
        folder: An empty folder.
        identity: Private SSH key that the boards accept.
        size_mb: Largest size of the disk for images. It is a sparse file.
    """
    keep_mounts_private()
    network = f"aerogaze-{os.getpid()}"
    with ExitStack() as stack:
        call("ip", "netns", "add", network)
        stack.callback(subprocess.run, ["/bin/ip", "netns", "delete", network], capture_output=True)
        call("ip", "-n", network, "link", "add", "desk", "type", "bridge")
        call("ip", "-n", network, "address", "add", f"{NETWORK}.1/24", "dev", "desk")
        for link in ("desk", "lo"):
            call("ip", "-n", network, "link", "set", link, "up")
        with (folder / "btrfs").open("wb") as file:
            file.truncate(size_mb << 20)
        call("mkfs.btrfs", "-q", folder / "btrfs")
        stack.enter_context(mounted(folder / "btrfs", folder / "disk"))
        yield Desk(folder, identity, network)


@dataclass
class Board:
    """A board. Its disk stays what the last moment before `shut_down` or `pull_plug` left.

    Attributes:
        desk: The desk at the other end of its cable.
        name: Name of the container and of its network namespace.
        address: Its address.
        image: Its disk.
        socket_name: Name of the desk's end of its cable.
        options: Further options of systemd-nspawn.
        boot_s: Seconds that the last start took, from power on until systemd had started every unit.
    """

    desk: Desk
    name: str
    address: str
    image: Path
    socket_name: str
    options: Sequence[str] = ()
    boot_s: float = 0.0
    _container: subprocess.Popen[bytes] | None = None
    _cgroups: Sequence[Path] = ()

    @property
    def is_on(self) -> bool:
        """Whether the board has power."""
        return self._container is not None

    @property
    def root(self) -> Path:
        """Where its disk is mounted while it is on, as this process sees it."""
        return self.desk.folder / f"root-{self.name}"

    @property
    def shared(self) -> Path:
        """Folder of this machine that is `/desk` on the board."""
        return self.desk.folder / f"shared-{self.name}"

    @property
    def login(self) -> str:
        """User and address, as `aerogaze flash` takes them."""
        return f"{USER}@{self.address}"

    def start(self, limit_s: float = 120) -> None:
        """Switch the board on, and wait until systemd says that it has started every unit."""
        assert not self.is_on
        for place in (self.root, self.shared):
            place.mkdir(exist_ok=True)
        call("mount", "-o", "loop", self.image, self.root)
        notify = self.desk.folder / f"notify-{self.name}"
        notify.unlink(missing_ok=True)
        self._cgroups = _make_cgroups(self.name)
        words = [
            "sh", "-ec", 'for file in $0; do echo 0 > $file; done; exec "$@"',
            " ".join(f"{cgroup}/cgroup.procs" for cgroup in self._cgroups),
            "setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "--quiet", "--boot",
            f"--directory={self.root}",
            f"--machine={self.name}", f"--network-namespace-path=/run/netns/{self.name}", "--register=no",
            "--keep-unit", "--console=pipe", "--notify-ready=yes", f"--bind={self.shared}:/desk",
            *OPEN_CONTAINER, *self.options,
        ]  # fmt: skip
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
            (self.desk.folder / f"console-{self.name}").open("ab") as console,
        ):
            listener.bind(str(notify))
            started = time.monotonic()
            variables = {
                "NOTIFY_SOCKET": str(notify),
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            }
            self._container = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, **variables},
            )
            while b"READY=1" not in _receive(listener, started + limit_s - time.monotonic()):
                if self._container.poll() is not None or time.monotonic() > started + limit_s:
                    raise RuntimeError(f"the board did not start: {Path(console.name).read_text()[-2000:]}")
            self.boot_s = time.monotonic() - started

    def ssh(
        self, *words: str, check: bool = True, stdin: str = "", limit_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the board, as its user, who may use sudo."""
        command = self.desk.command(
            "ssh", "-q", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o",
            f"UserKnownHostsFile={self.known_hosts}", "-i", self.desk.identity, self.login, *words,
        )  # fmt: skip
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=limit_s)
        if check and done.returncode:
            raise RuntimeError(
                f"{words} on the board ended with {done.returncode}: {done.stderr}{done.stdout}"
            )
        return done

    def script(self, text: str, limit_s: float = 120) -> str:
        """Run a script on the board as root and return what it printed."""
        return self.ssh("sudo", "sh", "-e", stdin=text, limit_s=limit_s).stdout

    @property
    def known_hosts(self) -> Path:
        """File with the boards' host key."""
        return self.desk.identity.with_name("known_hosts")

    def flash_words(self, bundle: Path, *options: str | Path) -> list[str | Path]:
        """Return the arguments of `aerogaze flash` for this board."""
        return [
            "flash", bundle, self.login, "--sudo", "--identity", self.desk.identity, "--known-hosts",
            self.known_hosts, "--no-autopilot", *options,
        ]  # fmt: skip

    def clone_disk(self, name: str) -> Path:
        """Copy the disk as it is at this moment: what a power cut would leave."""
        return self.desk.clone(self.image, name)

    def pull_plug(self) -> None:
        """Switch the board off. What was not yet on its disk is lost."""
        left = self.image.with_name(self.image.name + ".left")
        call("cp", "--reflink=always", self.image, left)
        with suppress(ProcessLookupError):
            os.kill(self._init(), signal.SIGKILL)
        self._wait_until_off()
        left.rename(self.image)

    def shut_down(self) -> None:
        """Shut the board down as its owner would."""
        self.ssh("sudo", "systemctl", "poweroff", check=False)
        self._wait_until_off()

    def pull_cable(self) -> None:
        """Unplug the cable to the desk."""
        call("ip", "-n", self.desk.network, "link", "set", self.socket_name, "down")

    def plug_cable(self) -> None:
        """Plug the cable in again."""
        call("ip", "-n", self.desk.network, "link", "set", self.socket_name, "up")

    def _init(self) -> int:
        assert self._container is not None
        children = (
            Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children").read_text().split()
        )
        if not children:
            raise ProcessLookupError
        return int(children[0])

    def _wait_until_off(self) -> None:
        assert self._container is not None
        try:
            self._container.wait(60)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait(10)
        self._container = None
        unmount(self.root)
        for cgroup in self._cgroups:
            _remove_cgroup(cgroup)


def _make_cgroups(name: str) -> list[Path]:
    """Make a control group below this process's own, in each hierarchy of systemd.

    Two containers in one group have the same group for a service, and each removes that of the other.
    """
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {hierarchy: path for _, hierarchy, path in groups}
    cgroups: list[Path] = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        hierarchy = "" if kind == "cgroup2" else "name=systemd"
        if kind == "cgroup2" or (kind == "cgroup" and hierarchy in options.split(",")):
            cgroups.append(Path(place, paths[hierarchy].lstrip("/"), name))
            cgroups[-1].mkdir(exist_ok=True)
    return cgroups


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a control group without processes, and those below it."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(folder)


def _receive(listener: socket.socket, limit_s: float) -> bytes:
    ready, _, _ = select.select([listener], [], [], max(0.0, min(limit_s, 1.0)))
    return listener.recv(4096) if ready else b""


def _set_network(descriptor: int) -> None:
    if _libc().setns(descriptor, CLONE_NEWNET):
        _raise_errno()


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _raise_errno() -> NoReturn:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def service_state(board: Board, *names: str) -> Sequence[str]:
    """Return properties of the board's service, as systemd shows them."""
    shown = [f"--property={name}" for name in names]
    lines = board.ssh("systemctl", "show", "aerogaze", *shown).stdout.splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in names]
