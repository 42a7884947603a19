"""Disks of virtual boards and machines, made once and kept in $XDG_CACHE_HOME.

A bare Debian, one with a release, and one of a machine of a cluster, which is Debian with Slurm.

python -m tests.support.board_images     makes them, and says where they are
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jetson.bundle.archive import BundleMetadata, write_bundle
from jetson.signing.keys import SigningKey, generate_key, load_signing_key
from jetson.wheels.self_wheel import PACKAGES as OWN_PACKAGES
from jetson.wheels.self_wheel import build_own_wheel
from jetson.wheels.wheel_set import INSTALLER
from tests.support.boards import copy_release
from tests.support.virtual_board import (
    NETWORK,
    USER,
    Board,
    call,
    desk_with_disk,
    missing_for_boards,
    mounted,
)

ROOT = Path(__file__).parents[2]
DEBIAN_PACKAGES = ("python3", "openssh-server", "systemd-sysv", "udev", "dbus", "sudo", "libfaketime")
"""Packages of the board: its Python and no more for Aerogaze. libfaketime is there to set its clock."""
CLUSTER_PACKAGES = (*DEBIAN_PACKAGES, "slurm-wlm", "munge")
"""Packages of a machine that trains. Its Python and PyTorch are those of this machine, by a mount."""
SIZE_MB = 2600
"""Size of a board's disk. The image is sparse: what the board does not use takes no space here."""
LEFT_OUT = ("doc", "man", "locale", "info")
RUN_TOML = 'source = "synthetic:7:128x96:100000000"\nrealtime = true\nfps = 5\n'
SET_UP_SERVICE = """
mkdir -p /etc/aerogaze
cat > /etc/aerogaze/run.toml
chown root:aerogaze /etc/aerogaze/run.toml
chmod 640 /etc/aerogaze/run.toml
cat > /var/lib/aerogaze/config.json <<END
{"service": {"restart": ["systemctl", "restart", "aerogaze"],
  "health": ["systemctl", "is-active", "--quiet", "aerogaze"]}}
END
cp /opt/aerogaze/lib/python3*/site-packages/jetson/aerogaze.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now aerogaze
"""
"""What docs/how-to/service.md does, as root. The standard input is run.toml."""

REAL_BOOT_ID = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=umount /proc/sys/kernel/random/boot_id
"""
"""Unit of the boards. systemd-nspawn mounts a file over the kernel's boot id that a sandbox does not show. On
a real board all see the same."""
CONFIG = {
    "service": {
        "restart": ["systemctl", "restart", "aerogaze"],
        "health": ["systemctl", "is-active", "--quiet", "aerogaze"],
        "command_s": 60,
    }
}
"""Settings of the boards of tests: a busy machine must not decide what a test finds."""


@dataclass(frozen=True)
class BoardImages:
    """Folder with the disks and what fits them.

    Attributes:
        folder: Has both disks, the SSH key `id`, `known_hosts`, and the signing keys `k` and `k.pub`.
    """

    folder: Path

    @property
    def debian(self) -> Path:
        """Disk of a board with Debian, its user and nothing else."""
        return self.folder / "debian.img"

    @property
    def flown(self) -> Path:
        """Disk of a board that flies counter 1, as a service, with the code of the time when it was made."""
        return self.folder / "flown.img"

    def make_missing(self, image: Path, make: Callable[[Path, BoardImages], None]) -> None:
        """Make a disk if it is missing; other processes wait meanwhile.

        Raises:
            RuntimeError: A package index cannot be reached, or a program failed.
        """
        make_missing(image, lambda pending: make(pending, self))

    @property
    def identity(self) -> Path:
        """Private SSH key that the boards accept."""
        return self.folder / "id"

    @property
    def key(self) -> SigningKey:
        """Key that signs bundles for the boards."""
        return load_signing_key(self.folder / "k")

    def write_bundle(self, path: Path, counter: int, *precisions: str) -> Path:
        """Write a bundle of a small release that the boards accept."""
        with tempfile.TemporaryDirectory() as folder:
            release = copy_release(Path(folder) / "release", *(precisions or ("int8",)))
            write_bundle(release, [self.key], BundleMetadata(counter=counter), path)
        return path

    def desk_environment(self) -> dict[str, str]:
        """Return the environment of the desk's programs: their wheels are kept here, too."""
        return {"AEROGAZE_CACHE": str(self.folder / "aerogaze"), "PYTHONPATH": str(ROOT)}


def aerogaze(*words: str | Path) -> list[str | Path]:
    """Return the command `aerogaze` of this checkout with its arguments."""
    return [sys.executable, "-m", "edge.cli.main", *words]


def cache_entry(recipe: Iterable[str]) -> Path:
    """Return the folder of the cache for what a recipe makes. Its name is a hash of the recipe."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aerogaze-boards"
    folder = cache / hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_missing(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file or a folder of the cache if it is missing; other processes wait meanwhile.

    Args:
        path: The file or folder.
        make: Writes it to another path, where an interrupted one may be.
    """
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            pending = path.with_suffix(".pending")
            make(pending)
            pending.rename(path)


def cached_images() -> BoardImages:
    """Return the disks; those that are missing are made first: three minutes, and a download of 170 MB.

    The name of their folder is a hash of all that decides what is on them but the code of Aerogaze, which
    `install_code` brings up to date.

    Raises:
        RuntimeError: A package index cannot be reached, or a program failed.
    """
    recipe = [
        *CLUSTER_PACKAGES, str(SIZE_MB), RUN_TOML, SET_UP_SERVICE, NETWORK,
        Path("/etc/os-release").read_text(), (ROOT / "jetson/constraints.txt").read_text(),
        *(inspect.getsource(make) for make in (install_debian, make_debian_image, make_flown_image)),
    ]  # fmt: skip
    images = BoardImages(cache_entry(recipe))
    images.make_missing(images.debian, make_debian_image)
    images.make_missing(images.flown, make_flown_image)
    return images


def cluster_image(images: BoardImages) -> Path:
    """Return the disk of a machine of a cluster. If it is missing, it is made first, in two minutes.

    Raises:
        RuntimeError: A package index cannot be reached, or a program failed.
    """
    image = images.folder / "cluster.img"
    images.make_missing(image, functools.partial(make_debian_image, packages=CLUSTER_PACKAGES))
    return image


def install_debian(root: Path, packages: Iterable[str], *options: str) -> None:
    """Install Debian's packages into a folder, from where this machine has its own.

    Args:
        root: The folder. What an interrupted call left there is removed.
        packages: Names of the packages.
        *options: Options of mmdebstrap.

    Raises:
        RuntimeError: The packages cannot be downloaded or installed.
    """
    shutil.rmtree(root, ignore_errors=True)
    wanted = ("Created-By: Packages", "Origin: Debian")
    form = "deb $(REPO_URI) $(CODENAME) $(COMPONENT)"
    sources = root.with_suffix(".list")
    sources.write_text(call("apt-get", "indextargets", "--format", form, *wanted))
    suite = Path("/etc/os-release").read_text().partition("VERSION_CODENAME=")[2].partition("\n")[0]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
    call(
        "mmdebstrap", "--quiet", "--mode=root", "--dpkgopt=force-unsafe-io", *excluded, *options,
        f"--include={','.join(packages)}", suite, root, sources, limit_s=1200,
    )  # fmt: skip


def make_debian_image(image: Path, images: BoardImages, packages: Sequence[str] = DEBIAN_PACKAGES) -> None:
    """Make the disk of a board that has Debian, a user and nothing else. Takes minutes.

    Args:
        image: The image to write.
        images: Where the SSH key and `known_hosts` are written.
        packages: Debian's packages on it.
    """
    root = image.with_suffix(".root")
    install_debian(root, packages, "--variant=minbase")
    for name, text in {
        "hostname": "board\n",
        "hosts": "127.0.0.1 localhost board\n",
        "resolv.conf": "",
        "machine-id": "",
        "sudoers.d/board": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
        "ssh/sshd_config.d/board.conf": "PasswordAuthentication no\nUseDNS no\n",
    }.items():
        (root / "etc" / name).write_text(text)
    call("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    call("chroot", root, "useradd", "--system", "--groups", "video,render,dialout", "aerogaze")
    if not images.identity.exists():
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", images.identity)
    keys = root / "home" / USER / ".ssh"
    keys.mkdir(mode=0o700)
    shutil.copy(f"{images.identity}.pub", keys / "authorized_keys")
    for path in (keys, keys / "authorized_keys"):
        os.chown(path, 1000, 1000)
    host_key = " ".join((root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])
    with (images.folder / "known_hosts").open("a") as known_hosts:
        known_hosts.write(f"{NETWORK}.* {host_key}\n")
    with image.open("wb") as file:
        file.truncate(SIZE_MB << 20)
    call("mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    shutil.rmtree(root)


def make_flown_image(image: Path, images: BoardImages) -> None:
    """Make the disk of a board by flashing a bare one over SSH, and set up its service. Takes a minute."""
    if not (images.folder / "k").exists():
        generate_key(images.folder / "k")
    with tempfile.TemporaryDirectory(dir=images.folder) as name:
        folder = Path(name)
        bundle = images.write_bundle(folder / "1.swu", 1)
        collect_runtime(images)
        with desk_with_disk(folder, images.identity) as desk:
            with desk.board(desk.clone(images.debian, "board.img")) as board:
                board.start()
                flash(images, board, bundle, "--trust", images.folder / "k.pub")
                board.script("\n".join(["cat > /root/set-up.sh <<'SETUP'", SET_UP_SERVICE, "SETUP"]))
                board.ssh("sudo", "sh", "-e", "/root/set-up.sh", stdin=RUN_TOML)
                board.shut_down()
            call("cp", "--sparse=always", board.image, image)


def board_platform(images: BoardImages) -> str:
    """Return the platform of the boards, as `aerogaze wheels` takes it."""
    with tempfile.TemporaryDirectory() as place, mounted(images.debian, Path(place)) as root:
        probe = call("chroot", root, "python3", "-c", INSTALLER.read_text(), "--probe", "/opt/aerogaze")
    return str(json.loads(probe)["machine"])


def collect_runtime(images: BoardImages) -> None:
    """Collect the wheels for the boards while this machine has a package index: the desk has no internet."""
    words = ["env", *(f"{name}={value}" for name, value in images.desk_environment().items())]
    call(*words, *aerogaze("wheels", board_platform(images)), limit_s=1200)


def flash(images: BoardImages, board: Board, bundle: Path, *options: str | Path, code: Path = ROOT) -> str:
    """Flash a board from its desk, and return what the command said.

    Args:
        images: The wheels and keys of the desk.
        board: The board.
        bundle: The bundle.
        *options: Options of the command.
        code: Folder with the code of the desk.

    Raises:
        RuntimeError: The flash failed; with what it said and what the service said.
    """
    variables = {**images.desk_environment(), "PYTHONPATH": str(code)}
    # Python's -m imports from the working folder first.
    words = ("env", f"--chdir={code}", *aerogaze(*board.flash_words(bundle, *options)))
    done = board.desk.run(*words, environment=variables)
    if done.returncode:
        journal = board.ssh(
            "sudo", "journalctl", "-u", "aerogaze", "-n", "30", "--no-pager", check=False
        ).stdout
        raise RuntimeError(f"flash ended with {done.returncode}: {done.stdout}{done.stderr}{journal}")
    return done.stdout + done.stderr


def replace_code(root: Path) -> Path:
    """Replace the code of Aerogaze in a root file system by that of this checkout; return its folder."""
    _, wheel = build_own_wheel()
    (packages,) = root.glob("opt/aerogaze.runtimes/*/lib/python3*/site-packages")
    for name in (*OWN_PACKAGES, *(path.name for path in packages.glob("aerogaze-*.dist-info"))):
        shutil.rmtree(packages / name, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        archive.extractall(packages)
    return packages


def install_code(image: Path, place: Path) -> None:
    """Replace the code of Aerogaze on the disk of a board by that of this checkout.

    A flash would do it, too, but makes the whole runtime again, which takes half a minute.
    """
    with mounted(image, place) as root:
        packages = replace_code(root)
        units = root / "etc/systemd/system"
        shutil.copyfile(packages / "jetson/aerogaze.service", units / "aerogaze.service")
        (root / "var/lib/aerogaze/config.json").write_text(json.dumps(CONFIG))
        (units / "boot-id.service").write_text(REAL_BOOT_ID)
        (units / "sysinit.target.wants").mkdir(exist_ok=True)
        (units / "sysinit.target.wants/boot-id.service").symlink_to("../boot-id.service")
        inside = [f"/{(packages / name).relative_to(root)}" for name in ("edge", "jetson", "export")]
        call("chroot", root, "/opt/aerogaze/bin/python", "-m", "compileall", "-q", *inside)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a block took."""
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    """Make the disks and print where they are."""
    reason = missing_for_boards()
    if reason:
        sys.exit(f"no virtual board: {reason}")
    with timed("disks of virtual boards"):
        images = cached_images()
    print(images.folder)


if __name__ == "__main__":
    main()
