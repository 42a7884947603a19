"""Memory of this process from Linux's /proc (proc(5)); None on systems without it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

PROCESS = Path("/proc/self")


def resident_bytes() -> int | None:
    """Return the resident memory of this process."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int | None:
    """Return the highest resident memory since `reset_peak`, or since the start where no reset is allowed."""
    return _status_bytes("VmHWM")


def reset_peak() -> None:
    """Start the peak again from the present memory."""
    with suppress(OSError):  # old and hardened kernels refuse it
        (PROCESS / "clear_refs").write_text("5")  # 5 resets VmHWM


def _status_bytes(field: str) -> int | None:
    try:
        match = re.search(rf"^{field}:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
