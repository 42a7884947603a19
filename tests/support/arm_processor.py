"""An Arm processor: Debian's arm64 packages and the wheels of a board, run by QEMU on this machine's kernel.

QEMU's user emulation translates the instructions of a program, and passes its system calls to the kernel of
this machine. So Python, the libraries and their arithmetic are those of a board. The kernel, its drivers and
the speed are not.

Programs run in a user namespace. In Linux 6.7 and later it has its own interpreters (binfmt_misc), so nothing
changes on this machine, and nothing is left. On older kernels the interpreter must be known to this machine:
systemd does that when the Debian package is installed.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from jetson.wheels.wheel_set import INSTALLER
from tests.support.board_images import (
    ROOT,
    aerogaze,
    cache_entry,
    install_debian,
    make_missing,
    replace_code,
)
from tests.support.virtual_board import call, missing_packages

PROGRAMS = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "unshare": "util-linux"}
"""Programs that an Arm processor needs, each with its Debian package."""
DEBIAN_PACKAGES = ("python3", "python3-venv", "libstdc++6")
"""Packages of the root file system. libstdc++ is on every board, because apt needs it."""
INTERPRETER = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""What the kernel must know to start programs for Arm with QEMU; of the Debian package."""
PROCESSOR = "cortex-a76"
"""The processor of QEMU 7.2 that is nearest to the Cortex-A78AE of a Jetson Orin: both are Armv8.2 with dot
products (int8) and half precision (fp16), and without SVE."""
CPUINFO = """processor\t: {}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""What /proc/cpuinfo says of one core of it. QEMU 7.2 shows the file of this machine instead, in which ONNX
Runtime finds no Arm core: it ends in a segmentation fault."""
START = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2> /dev/null &&
  cat "$2" > /proc/sys/fs/binfmt_misc/register
for name in dev proc sys; do mount --rbind "/$name" "$1/$name"; done
mount --bind "$1/cpuinfo" "$1/proc/cpuinfo"
root=$1
shift 2
exec chroot "$root" "$@"
"""


@dataclass(frozen=True)
class ArmProcessor:
    """An Arm processor with a root file system.

    Attributes:
        root: Folder of the root file system.
    """

    root: Path

    def run(self, *words: str | Path, limit_s: float = 3600) -> str:
        """Run a program of the root file system as root, and return what it printed.

        Raises:
            RuntimeError: It failed; with its last lines.
        """
        variables = {"HOME": "/root", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "QEMU_CPU": PROCESSOR}
        return call(
            "env", "-i", *(f"{name}={value}" for name, value in variables.items()),
            "unshare", "--map-root-user", "--mount", "sh", "-ec", START, "sh", self.root, INTERPRETER, *words,
            limit_s=limit_s,
        )  # fmt: skip

    def python(self, script: str, *words: str | Path) -> str:
        """Run a script in the runtime of Aerogaze, and return what it printed."""
        return self.run("/opt/aerogaze/bin/python", "-I", "-c", script, *words)

    def aerogaze(self, *words: str | Path) -> str:
        """Run `aerogaze` of the runtime, and return what it printed."""
        return self.run("/opt/aerogaze/bin/aerogaze", *words)


class UnavailableError(Exception):
    """What a board with an Arm processor is made of cannot be had here."""


def missing_for_arm() -> str | None:
    """Return why this machine cannot run programs for Arm; None if it can."""
    if os.getuid() != 0:
        return "only root can make a root file system for Arm"
    if missing := missing_packages(PROGRAMS):
        return missing
    return None if INTERPRETER.exists() else f"{INTERPRETER} is missing (apt-get install qemu-user-static)"


def cached_board() -> ArmProcessor:
    """Return a board with an Arm processor and the runtime of Aerogaze. It is made first if it is missing.

    That takes minutes, and a download of 130 MB. Its code of Aerogaze is that of the time when it was made.

    Raises:
        UnavailableError: Packages or wheels cannot be downloaded, or this kernel starts no programs for Arm.
        RuntimeError: The wheels cannot be installed.
    """
    recipe = [
        *DEBIAN_PACKAGES, CPUINFO, *(inspect.getsource(make) for make in (install_debian, make_board)),
        Path("/etc/os-release").read_text(), (ROOT / "jetson/constraints.txt").read_text(),
    ]  # fmt: skip
    root = cache_entry(recipe) / "arm"
    make_missing(root, make_board)
    return ArmProcessor(root)


def make_board(root: Path) -> None:
    """Make a board: unpack Debian, collect wheels for what it says it is, and start their installer there.

    No package of Debian is configured, because Python needs none of that.
    """
    shutil.rmtree(root, ignore_errors=True)
    board, wheels = ArmProcessor(root), root / "wheels"
    try:
        install_debian(root, DEBIAN_PACKAGES, "--variant=extract", "--architectures=arm64")
        for name in ("proc", "sys", "root"):
            (root / name).mkdir()
        (root / "cpuinfo").write_text("".join(map(CPUINFO.format, range(os.cpu_count() or 1))))
        probe = board.run("/usr/bin/python3", "-c", INSTALLER.read_text(), "--probe", "/opt/aerogaze")
        call(*aerogaze("wheels", json.loads(probe)["machine"], "--out", wheels), limit_s=1200)
    except RuntimeError as error:
        raise UnavailableError(str(error)) from error
    board.run("/usr/bin/python3", f"/wheels/{INSTALLER.name}", "/opt/aerogaze")
    shutil.rmtree(wheels)


def copy_board(board: ArmProcessor, root: Path) -> ArmProcessor:
    """Copy a board to a new folder, and replace its code of Aerogaze by that of this checkout."""
    call("cp", "--archive", "--reflink=auto", board.root, root, limit_s=1200)
    replace_code(root)
    return ArmProcessor(root)
