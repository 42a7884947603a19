"""Announces each step that changes a board's disk, and waits until the desk has seen it.

Every Python of the board imports this file (`power_cuts.install_steps`). It does nothing unless the desk has
made the pipes, and imports nothing but the standard library. Python's audit events name the steps: the code
that is tested needs no change, and cannot forget one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

STEPS, GO = "/desk/steps", "/desk/go"
PLACES = ("/var/lib/aerogaze/", "/opt/aerogaze")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "os.chmod")
MAX_CHARS = 500


def describe(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the words for a step; None for what changes no disk of aerogaze."""
    if event == "subprocess.Popen":
        return f"run {' '.join(map(str, arguments[1]))}"
    if event == "os.rename":
        path, verb = str(arguments[1]), "rename"
    elif event in CHANGES:
        path, verb = str(arguments[0]), event.removeprefix("os.")
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path, verb = str(arguments[0]), "write"
    elif event == "open" and str(arguments[0]).endswith("golden.npz"):
        path, verb = str(arguments[0]), "try"
    else:
        return None
    return f"{verb} {path}" if path.startswith(PLACES) else None


def announce(step: str) -> None:
    """Write a step to the pipe, and wait for the answer."""
    pipe = os.open(STEPS, os.O_WRONLY)
    os.write(pipe, step[:MAX_CHARS].replace("\n", " ").encode() + b"\n")
    os.close(pipe)
    answers = os.open(GO, os.O_RDONLY)
    os.read(answers, 1)
    os.close(answers)


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Announce an audit event of Python if it is a step."""
    step = describe(event, arguments)
    is_ours = sys.argv[1:2] == ["device"] or sys.argv[0].endswith("install_runtime.py")
    if step is not None and is_ours:
        announce(step)


def sync_announced(descriptor: Any) -> None:
    """Announce that a file is about to be synchronized, which has no audit event, and synchronize it."""
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    if path.startswith(PLACES):
        announce(f"sync {path}")
    _sync(descriptor)


def sync_all_announced() -> None:
    """Announce that all files are about to be synchronized, and synchronize them."""
    announce("sync all")
    _sync_all()


_sync, _sync_all = os.fsync, os.sync
if os.path.exists(STEPS) and os.geteuid() == 0:
    os.fsync = sync_announced  # type: ignore[assignment]
    os.sync = sync_all_announced
    sys.addaudithook(hear)
