"""Tries what the sandbox of the unit forbids, and prints a line of JSON. Runs on the board."""

from __future__ import annotations

import ctypes
import json
import os
import socket
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
OWN_FOLDER = os.environ.get("STATE_DIRECTORY", "/root")
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def call(function: str, *arguments: object) -> None:
    """Call a function of the C library; raise OSError if it fails."""
    if getattr(LIBC, function)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def make_control_group() -> None:
    os.mkdir("/sys/fs/cgroup/probe")
    os.rmdir("/sys/fs/cgroup/probe")


def set_user_id_bit() -> None:
    path = os.path.join(OWN_FOLDER, "setuid")
    open(path, "w").close()
    try:
        os.chmod(path, 0o4700)
    finally:
        os.unlink(path)


def gain_privileges() -> None:
    # A set-user-ID program has its rights only without NoNewPrivileges: `su` of the system shows it.
    with open("/proc/self/status") as file:
        if "NoNewPrivs:\t1" in file.read():
            raise PermissionError


def has_capabilities() -> None:
    with open("/proc/self/status") as file:
        bounding = next(line for line in file if line.startswith("CapBnd"))
    if int(bounding.split()[1], 16) == 0:
        raise PermissionError


def in_child(function: Callable[[], object]) -> Callable[[], None]:
    """Run something that would change this process in a child."""

    def run() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                function()
            except OSError:
                os._exit(1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise PermissionError

    return run


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write its own recordings": lambda: write(os.path.join(OWN_FOLDER, "file")),
    "open its own camera's network": lambda: socket.socket(socket.AF_INET).close(),
    "write the board's state": lambda: write("/var/lib/aerogaze/file"),
    "write the runtime": lambda: write("/opt/aerogaze/file"),
    "write /etc": lambda: write("/etc/file"),
    "read the home folders": lambda: os.listdir("/home/pilot"),
    "read root's home": lambda: os.listdir("/root"),
    "write a control group": lambda: make_control_group(),
    "make a file set-user-ID": set_user_id_bit,
    "gain privileges": gain_privileges,
    "have a capability": has_capabilities,
    "open a socket for raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "open a device of others": lambda: os.close(os.open("/dev/fuse", os.O_RDWR)),
    "make a user namespace": in_child(lambda: call("unshare", CLONE_NEWUSER)),
    "make a network namespace": in_child(lambda: call("unshare", CLONE_NEWNET)),
    "mount a file system": in_child(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "change the host name": in_child(lambda: call("sethostname", b"board", 5)),
    "take real-time priority": in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "run as another kind of system": in_child(lambda: call("personality", 0x0008)),
}


def outcome_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return error.strerror or "refused"
    return "allowed"


if __name__ == "__main__":
    print(json.dumps({name: outcome_of(attempt) for name, attempt in ATTEMPTS.items()}))
