"""Tries what the sandbox of the unit forbids, and prints a line of JSON. Runs on the board.

python3 sandbox_probe.py [ATTEMPT ...]      without an ATTEMPT, tries all
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
OWN_FOLDER = os.environ.get("STATE_DIRECTORY", "/root")
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SYS_MODIFY_LDT, SYS_REBOOT = 154, 169
"""Numbers of system calls on x86-64."""
SET_USER_ID_PROGRAM = "/usr/local/bin/root-id"
"""A copy of `id` that belongs to root and is set-user-ID."""
GETPID_AS_32_BIT = bytes.fromhex("b814000000cd80c3")
"""mov eax, 20; int 0x80; ret: getpid of a 32-bit program."""


def call(function: str, *arguments: object) -> None:
    """Call a function of the C library; raise OSError if it fails."""
    if getattr(LIBC, function)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def look_at(path: str) -> None:
    """Open a file or folder. systemd hides one behind another without any permissions, which stop no root."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if os.fstat(handle).st_mode & 0o777 == 0:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    finally:
        os.close(handle)


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
    if subprocess.run([SET_USER_ID_PROGRAM, "-u"], capture_output=True).stdout != b"0\n":
        raise PermissionError


def change_owner() -> None:
    path = os.path.join(OWN_FOLDER, "owner")
    open(path, "w").close()
    try:
        os.chown(path, 1, 1)
    finally:
        os.unlink(path)


def read_clock_settings() -> None:
    # `adjtimex` that sets nothing needs no privilege.
    call("adjtimex", ctypes.create_string_buffer(512))


def call_as_32_bit() -> None:
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(GETPID_AS_32_BIT)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    if function() != os.getpid():
        raise PermissionError


def reboot_with_a_wrong_number() -> None:
    try:
        call("syscall", SYS_REBOOT, 0, 0, 0, None)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the kernel's answer; it is not asked if the sandbox refuses
            raise


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
    "read what root alone may read": lambda: look_at("/etc/shadow"),
    "write the board's state": lambda: write("/var/lib/aerogaze/file"),
    "write the runtime": lambda: write("/opt/aerogaze/file"),
    "write /etc": lambda: write("/etc/file"),
    "read the home folders": lambda: look_at("/home/pilot"),
    "read root's home": lambda: look_at("/root"),
    "read the kernel's modules": lambda: look_at("/usr/lib/modules"),
    "read the kernel's log": lambda: look_at("/proc/kmsg"),
    "change a setting of the kernel": lambda: os.close(
        os.open("/proc/sys/net/ipv4/ip_default_ttl", os.O_RDWR)
    ),
    "make a control group": make_control_group,
    "make a file set-user-ID": set_user_id_bit,
    "gain privileges": gain_privileges,
    "use a capability": change_owner,
    "open a socket for raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "open a device of others": lambda: os.close(os.open("/dev/fuse", os.O_RDWR)),
    "make a user namespace": in_child(lambda: call("unshare", CLONE_NEWUSER)),
    "make a network namespace": in_child(lambda: call("unshare", CLONE_NEWNET)),
    "mount a file system": in_child(lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "change the host name": in_child(lambda: call("sethostname", b"board", 5)),
    "take real-time priority": in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "run as another kind of system": in_child(lambda: call("personality", 0x0008)),
    "ask for the settings of the clock": read_clock_settings,
    "call as a 32-bit program": in_child(call_as_32_bit),
    "ask for the table of segments": in_child(lambda: call("syscall", SYS_MODIFY_LDT, 0, None, 0)),
    "ask for a reboot": reboot_with_a_wrong_number,
}


def outcome_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return error.strerror or "refused"
    return "allowed"


if __name__ == "__main__":
    names = sys.argv[1:] or ATTEMPTS
    print(json.dumps({name: outcome_of(ATTEMPTS[name]) for name in names}))
