"""Memory of this process, as Linux tells it (proc(5)); None where there is no /proc."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")


def resident() -> int | None:
    """Return the bytes of this process that are in memory now."""
    return _status("VmRSS")


def peak() -> int | None:
    """Return the most there were since `forget_peak`, or since the start where that is not allowed."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak start again from now."""
    with suppress(OSError):  # old kernels, hardened ones
        (PROCESS / "clear_refs").write_text("5")


def _status(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
