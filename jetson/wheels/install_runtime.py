"""Installer of a board's runtime from a folder of wheels, without internet.

It runs on the board with the board's own Python 3, and imports nothing but the standard library.

    python3 wheels/install_runtime.py /opt/aerogaze
    python3 wheels/install_runtime.py --probe /opt/aerogaze

    /opt/aerogaze                  symbolic link to the runtime in use
    /opt/aerogaze.runtimes/ID      virtual environments: the one in use, and the one before it

A new runtime is built next to the one in use, tried, and synced to the disk; then one rename of the link
switches to it. A runtime that was interrupted before that has no requirements.txt, and is built again.
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys

REQUIREMENTS = "requirements.txt"
SPARE_BYTES = 64 << 20
TRIAL_SCRIPT = "import cv2, numpy, onnxruntime, jetson.cli.device"
"""Imports that must work in a new runtime."""
NO_VENV_MESSAGE = "python3 -m venv fails on this board; on Debian and Ubuntu: apt-get install python3-venv"
CUDA_EXTRAS = {"36": "cuda12", "38": "cuda"}
"""Extra of aerogaze by the major version of Jetson Linux: JetPack 6 and 7."""


class InstallError(Exception):
    """Error of one line: the problem, what was expected, and the remedy."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def detect_platform(root: str = "/") -> str:
    """Return the name of this platform as the desk writes it: cp310-manylinux_2_35_aarch64+cuda12."""
    libc, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "no glibc").partition(" ")
    tag = "manylinux_" + "_".join(version.split(".")[:2]) if libc == "glibc" else libc
    name = f"cp{sys.version_info[0]}{sys.version_info[1]}-{tag}_{platform.machine()}"
    try:
        with open(os.path.join(root, "etc/nv_tegra_release"), errors="replace") as file:
            release = re.match(r"# R(\d+)", file.readline())
    except OSError:
        release = None
    cuda_extra = CUDA_EXTRAS.get(release.group(1)) if release else None
    return f"{name}+{cuda_extra}" if cuda_extra else name


def runtime_id(folder: str) -> str | None:
    """Return the id of the runtime in a folder; None if there is none, or it is incomplete."""
    try:
        with open(os.path.join(folder, REQUIREMENTS), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]
    except OSError:
        return None


def read_requirements(wheels: str) -> tuple[str, str]:
    """Return the requirements.txt of a folder of wheels, and the id of its runtime.

    Raises:
        InstallError: The file cannot be read, or the wheels are for another platform.
    """
    try:
        with open(os.path.join(wheels, REQUIREMENTS)) as file:
            text = file.read()
    except OSError as error:
        raise InstallError(
            f"cannot read {error.filename}: {error.strerror}; make the folder with aerogaze wheels"
        ) from None
    match, own_platform = re.search(r"^# machine (\S+)$", text, re.M), detect_platform()
    if match is None or not _runs_on(match.group(1), own_platform):
        other = match.group(1) if match else "an unknown platform"
        raise InstallError(
            f"the wheels are for {other}, but this is {own_platform}: "
            f"make others with aerogaze wheels {own_platform} --out DIR"
        )
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]


def _runs_on(wheel_platform: str, own_platform: str) -> bool:
    """Return whether wheels of a platform run here: same Python and processor, and a glibc as new."""
    pattern = re.compile(r"(cp\d+)-manylinux_2_(\d+)_(\w+)")
    wheel, own = pattern.match(wheel_platform), pattern.match(own_platform)
    if not wheel or not own:
        return False
    return wheel.group(1, 3) == own.group(1, 3) and int(wheel.group(2)) <= int(own.group(2))


def build_runtime(wheels: str, store: str, requirements: str, identity: str, lock: int) -> str:
    """Build the runtime in its folder, unless it is complete and starts; return the folder."""
    folder = os.path.join(store, identity)
    if runtime_id(folder) == identity and runtime_starts(folder, lock):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _check_free_space(store, requirements)
    log(f"making {folder}")
    # pip comes with the wheels: Debian's Python can make an environment without pip, but has no ensurepip.
    # TensorRT is a system package, so the environment must see those.
    run_program(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", folder],
        NO_VENV_MESSAGE,
        lock,
    )
    python, pip_wheel = os.path.join(folder, "bin", "python"), _find_pip_wheel(wheels, requirements)
    log("installing the wheels")
    pip_install = [
        python, pip_wheel + "/pip", "--isolated", "--disable-pip-version-check", "install", "--quiet",
        "--no-index", "--no-deps", "--ignore-installed", "--require-hashes", "--no-cache-dir",
        "--find-links", wheels, "--requirement", f"{wheels}/{REQUIREMENTS}",
    ]  # fmt: skip
    run_program(pip_install, "pip failed", lock)
    run_program([python, "-I", "-c", TRIAL_SCRIPT], "the new runtime does not start", lock)
    os.sync()
    pending = os.path.join(folder, REQUIREMENTS + ".new")
    with open(pending, "w") as file:
        file.write(requirements)
        file.flush()
        os.fsync(file.fileno())
    os.rename(pending, os.path.join(folder, REQUIREMENTS))  # from here on the runtime is complete
    _sync_folder(folder)
    return folder


def _check_free_space(store: str, requirements: str) -> None:
    match = re.search(r"^# unpacked (\d+) bytes$", requirements, re.M)
    # A quarter more for the bytecode that pip compiles.
    needed = (int(match.group(1)) * 5 // 4 if match else 0) + SPARE_BYTES
    free = shutil.disk_usage(store).free
    if free < needed:
        raise InstallError(
            f"{store} has {free >> 20} MiB free, but {needed >> 20} MiB are needed: free some space"
        )


def _find_pip_wheel(wheels: str, requirements: str) -> str:
    """Return the wheel of pip, after checking its hash: pip runs before it could check itself."""
    paths = glob.glob(os.path.join(glob.escape(wheels), "pip-*.whl"))
    if len(paths) != 1:
        raise InstallError(f"{wheels} has {len(paths)} wheels of pip, expected 1: copy the folder again")
    with open(paths[0], "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if f"--hash=sha256:{digest}" not in requirements:
        raise InstallError(f"{paths[0]} has another hash than {REQUIREMENTS}: copy the folder again")
    return paths[0]


def runtime_starts(folder: str, lock: int) -> bool:
    """Return whether a complete runtime still starts."""
    try:
        run_program([os.path.join(folder, "bin", "python"), "-I", "-c", TRIAL_SCRIPT], "", lock)
    except (InstallError, OSError):
        return False
    return True


def switch_link(link: str, folder: str) -> None:
    """Make the link point to another runtime, by one rename."""
    pending = link + ".new"
    if os.path.lexists(pending):
        os.unlink(pending)
    os.symlink(folder, pending)
    os.rename(pending, link)
    _sync_folder(os.path.dirname(link))


def remove_old_runtimes(store: str, kept: set[str | None]) -> None:
    """Remove all runtimes but the kept ones: the new one, and the last one, which a service may still use."""
    for entry in os.scandir(store):
        if entry.is_dir(follow_symlinks=False) and os.path.realpath(entry.path) not in kept:
            shutil.rmtree(entry.path, ignore_errors=True)


def install(wheels: str, link: str, disarm_options: list[str]) -> bool:
    """Build the runtime of a folder of wheels and switch to it.

    Args:
        wheels: Folder with the wheels and requirements.txt.
        link: Path of the link to the runtime, such as /opt/aerogaze.
        disarm_options: Options of `aerogaze device disarmed`.

    Returns:
        Whether anything changed.

    Raises:
        InstallError: The runtime cannot be built, or the autopilot reports armed; the old one stays in use.
    """
    requirements, identity = read_requirements(wheels)
    if os.path.lexists(link) and not os.path.islink(link):
        raise InstallError(f"{link} is not a link to a runtime: move it away, or name another path")
    previous = os.path.realpath(link) if os.path.exists(link) else None
    store = link + ".runtimes"
    os.makedirs(store, exist_ok=True)
    with open(os.path.join(store, "lock"), "w", opener=_open_lock) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                f"another command is installing a runtime at {link}: wait until it has ended"
            ) from None
        if runtime_id(link) == identity and runtime_starts(link, lock.fileno()):
            return False
        folder = build_runtime(wheels, store, requirements, identity, lock.fileno())
        if previous:
            # A service that restarts would start from the new runtime, which must not happen in flight.
            program = os.path.join(folder, "bin", "aerogaze")
            run_program([program, "device", "disarmed", *disarm_options], "", lock.fileno())
        switch_link(link, folder)
        remove_old_runtimes(store, {os.path.realpath(folder), previous})
    return True


def _open_lock(path: str, flags: int) -> int:
    """Open the lock file for its owner only: any user who can open it could hold it and stop all installs."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)  # older versions made it readable for all
    return handle


def log(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def run_program(command: list[str], problem: str, lock: int) -> None:
    """Run a program without the Python and pip settings of this environment.

    Args:
        command: The program and its arguments.
        problem: Start of the error message; if empty, the program's last line is the whole message, and its
            exit code is used.
        lock: File descriptor of the lock. The program inherits it, so that after a kill of this process no
            other installer starts before the program has ended.

    Raises:
        InstallError: The program failed.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON")) and name != "VIRTUAL_ENV"
    }
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment,
        pass_fds=(lock,),
    )
    if result.returncode:
        lines = result.stdout.decode(errors="replace").strip().splitlines() or ["no message"]
        last_line = lines[-1].replace("aerogaze: ", "", 1)
        raise (
            InstallError(f"{problem}: {last_line}") if problem else InstallError(last_line, result.returncode)
        )


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main() -> int:
    """Return the exit code: 0, or 1 if the autopilot reports armed, or 2 for another error."""
    parser = argparse.ArgumentParser(
        description="Install the runtime of aerogaze from the wheels in the folder of this file."
    )
    parser.add_argument("link", metavar="place", help="path of the link to the runtime, as /opt/aerogaze")
    parser.add_argument("--probe", action="store_true", help="only print this platform as JSON")
    parser.add_argument(
        "disarm_options", metavar="questions", nargs="*", help="after --: options of aerogaze device disarmed"
    )
    arguments = parser.parse_args()
    # Only the folder is resolved: the link itself must stay a link.
    folder, name = os.path.split(arguments.link)
    link = os.path.join(os.path.realpath(folder or "."), name)
    if arguments.probe:  # runs from python -c, too, where there is no __file__
        print(json.dumps({"machine": detect_platform(), "runtime": runtime_id(link)}))
        return 0
    wheels = os.path.dirname(os.path.abspath(__file__))
    os.umask(0o022)  # services of other users must be able to read the runtime
    try:
        changed = install(wheels, link, arguments.disarm_options)
    except InstallError as error:
        log(f"aerogaze: {error}")
        return error.exit_code
    except OSError as error:
        log(f"aerogaze: cannot write {error.filename or link}: {error.strerror}; use sudo or another path")
        return 2
    print(json.dumps({"changed": changed, "runtime": runtime_id(link)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
