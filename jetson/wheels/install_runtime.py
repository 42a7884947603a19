"""Makes a board's runtime from a folder of wheels, without internet. Runs there, by the board's own Python 3.

    python3 wheels/install_runtime.py /opt/aerogaze
    python3 wheels/install_runtime.py --probe /opt/aerogaze

    /opt/aerogaze                  a link to the runtime in use
    /opt/aerogaze.runtimes/ID      virtual environments: this one, and the one before

A runtime is made beside the one in use, tried, and put on the disk; then one rename of the link switches.
What is cut off on the way counts for nothing. Nothing but the standard library is imported here.
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
TRIAL = "import cv2, numpy, onnxruntime, jetson.cli.device"
"""What a runtime must be able to import before it counts."""
_VENV = "no virtual environment can be made here; Debian and Ubuntu: apt-get install python3-venv"
CUDA = {"36": "cuda12", "38": "cuda"}
"""Extra of aerogaze by Jetson Linux's major version: JetPack 6 and 7."""


class InstallError(Exception):
    """One line: what was wrong, what was expected, what to do."""

    def __init__(self, told: str, code: int = 2) -> None:
        super().__init__(told)
        self.code = code


def detect_platform(facts: str = "/") -> str:
    """Spell this machine as the desk does: cp310-manylinux_2_35_aarch64+cuda12."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "no glibc").partition(" ")
    libc = "manylinux_" + "_".join(version.split(".")[:2]) if name == "glibc" else name
    spelt = f"cp{sys.version_info[0]}{sys.version_info[1]}-{libc}_{platform.machine()}"
    try:
        with open(os.path.join(facts, "etc/nv_tegra_release"), errors="replace") as file:
            release = re.match(r"# R(\d+)", file.readline())
    except OSError:
        release = None
    cuda = CUDA.get(release.group(1)) if release else None
    return f"{spelt}+{cuda}" if cuda else spelt


def id_of(place: str) -> str | None:
    """Return the id of the runtime that PLACE links to; None: there is none, or it is not whole."""
    try:
        with open(os.path.join(place, REQUIREMENTS), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]
    except OSError:
        return None


def read_requirements(wheels: str) -> tuple[str, str]:
    """Return the text and id of a set, after seeing that it is for this machine."""
    try:
        with open(os.path.join(wheels, REQUIREMENTS)) as file:
            text = file.read()
    except OSError as error:
        raise InstallError(
            f"cannot read {error.filename}: {error.strerror}; make the folder with aerogaze wheels"
        ) from None
    asked, here = re.search(r"^# machine (\S+)$", text, re.M), detect_platform()
    if asked is None or not _fits(asked.group(1), here):
        told = asked.group(1) if asked else "an unknown machine"
        raise InstallError(f"these wheels are for {told}, this is {here}: aerogaze wheels {here} --out DIR")
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]


def _fits(asked: str, here: str) -> bool:
    shape = re.compile(r"(cp\d+)-manylinux_2_(\d+)_(\w+)")
    wanted, found = shape.match(asked), shape.match(here)
    if not wanted or not found:
        return False
    return wanted.group(1, 3) == found.group(1, 3) and int(wanted.group(2)) <= int(found.group(2))


def make(wheels: str, store: str, text: str, identity: str, lock: int) -> str:
    """Make the runtime in its folder, unless it is there whole; return the folder."""
    made = os.path.join(store, identity)
    if id_of(made) == identity and starts(made, lock):
        return made
    shutil.rmtree(made, ignore_errors=True)
    unpacked = re.search(r"^# unpacked (\d+) bytes$", text, re.M)
    needs = (int(unpacked.group(1)) * 5 // 4 if unpacked else 0) + SPARE_BYTES  # with what is compiled
    free = shutil.disk_usage(store).free
    if free < needs:
        raise InstallError(f"{store} has {free >> 20} MiB free, {needs >> 20} are needed: free some space")
    log(f"making {made}")
    # pip comes with the wheels: Debian's Python can make an environment without one, and has no ensurepip.
    run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", made], _VENV, lock)
    python = os.path.join(made, "bin", "python")
    pips = glob.glob(os.path.join(glob.escape(wheels), "pip-*.whl"))
    if len(pips) != 1:
        raise InstallError(f"{wheels} has {len(pips)} wheels of pip, expected 1: copy the whole folder again")
    with open(pips[0], "rb") as file:  # it runs before it could check itself
        digest = hashlib.sha256(file.read()).hexdigest()
    if f"--hash=sha256:{digest}" not in text:
        raise InstallError(f"{pips[0]} is not the one of the list: copy the whole folder again")
    log("installing the wheels")
    run([python, pips[0] + "/pip", "--isolated", "--disable-pip-version-check", "install", "--quiet",
         "--no-index", "--no-deps", "--ignore-installed", "--require-hashes", "--no-cache-dir",
         "--find-links", wheels, "--requirement", f"{wheels}/{REQUIREMENTS}"], "pip says", lock)  # fmt: skip
    run([python, "-I", "-c", TRIAL], "the new runtime does not start", lock)
    os.sync()
    pending = os.path.join(made, REQUIREMENTS + ".new")
    with open(pending, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(pending, os.path.join(made, REQUIREMENTS))  # from here it counts
    _fsync(made)
    return made


def starts(made: str, lock: int) -> bool:
    """Say whether a runtime that is there whole still starts."""
    try:
        run([os.path.join(made, "bin", "python"), "-I", "-c", TRIAL], "", lock)
    except (InstallError, OSError):
        return False
    return True


def switch(place: str, made: str) -> None:
    """Let PLACE link to another runtime, by one rename."""
    pending = place + ".new"
    if os.path.lexists(pending):
        os.unlink(pending)
    os.symlink(made, pending)
    os.rename(pending, place)
    _fsync(os.path.dirname(place))


def sweep(store: str, kept: set[str | None]) -> None:
    """Remove runtimes that are neither used nor were used last; a service may still run from that one."""
    for entry in os.scandir(store):
        if entry.is_dir(follow_symlinks=False) and os.path.realpath(entry.path) not in kept:
            shutil.rmtree(entry.path, ignore_errors=True)


def install(wheels: str, place: str, questions: list[str]) -> bool:
    """Make the runtime of a folder of wheels and switch to it; return whether anything changed."""
    text, identity = read_requirements(wheels)
    if os.path.lexists(place) and not os.path.islink(place):
        raise InstallError(f"{place} is not a runtime made here: move it away, or name another place")
    before = os.path.realpath(place) if os.path.exists(place) else None
    store = place + ".runtimes"
    os.makedirs(store, exist_ok=True)
    with open(os.path.join(store, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InstallError(
                f"another command makes a runtime at {place}: wait until it has ended"
            ) from None
        if id_of(place) == identity and starts(place, lock.fileno()):
            return False
        made = make(wheels, store, text, identity, lock.fileno())
        if before:  # a service that starts anew would start from the new one: not in the air
            asked = [os.path.join(made, "bin", "aerogaze"), "device", "disarmed", *questions]
            run(asked, "", lock.fileno())
        switch(place, made)
        sweep(store, {os.path.realpath(made), before})
    return True


def log(line: str) -> None:
    """Tell a step."""
    print(line, file=sys.stderr, flush=True)


def run(words: list[str], told: str, lock: int) -> None:
    """Run a program without a trace of this environment; its last line says what was wrong.

    It holds the lock, too: if we are killed, nobody begins before it has ended.
    """
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON")) and k != "VIRTUAL_ENV"
    }
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=clean,
        pass_fds=(lock,),
    )
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        last = lines[-1].replace("aerogaze: ", "", 1)
        raise InstallError(f"{told}: {last}") if told else InstallError(last, done.returncode)


def _fsync(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main() -> int:
    """Return the exit code: 0, 1 where the autopilot says no, 2 where something was wrong."""
    parser = argparse.ArgumentParser(description="Make aerogaze's runtime from the wheels beside this file.")
    parser.add_argument("place", help="where it is found then, as /opt/aerogaze")
    parser.add_argument("--probe", action="store_true", help="only say what machine this is, as JSON")
    parser.add_argument("questions", nargs="*", help="after --: options of aerogaze device disarmed")
    wish = parser.parse_args()
    place = os.path.join(os.path.realpath(os.path.dirname(wish.place) or "."), os.path.basename(wish.place))
    if wish.probe:  # from python -c, too, where there is no __file__
        print(json.dumps({"machine": detect_platform(), "runtime": id_of(place)}))
        return 0
    wheels = os.path.dirname(os.path.abspath(__file__))
    os.umask(0o022)  # a service of another user runs it
    try:
        changed = install(wheels, place, wish.questions)
    except InstallError as error:
        log(f"aerogaze: {error}")
        return error.code
    except OSError as error:
        log(f"aerogaze: cannot write {error.filename or place}: {error.strerror}; take sudo or another place")
        return 2
    print(json.dumps({"changed": changed, "runtime": id_of(place)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
