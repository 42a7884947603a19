"""Checks of cameras, energy meters, clocks, disk and the link to an autopilot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge.diagnostics.finding import Finding
from edge.hardware.board import BoardFacts
from edge.hardware.device_nodes import TryOpen, try_open
from edge.hardware.energy_meters import find_energy_meter
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors

MIN_FREE_BYTES = 2 << 30
"""A release, its engines and an hour of recording need less."""
HEARTBEAT_TIMEOUT_S = 3.0
"""Autopilots send one heartbeat per second."""
_CSI_NAME = "vi-output"
"""Start of the names that Jetson Linux gives to cameras on CSI."""


def check_cameras(root: Path, facts: BoardFacts, open_node: TryOpen = try_open) -> Iterator[Finding]:
    """Check the cameras that the kernel knows."""
    usable: list[str] = []
    refused: list[str] = []
    csi: list[str] = []
    for device in sorted((root / "dev").glob("video[0-9]*"), key=lambda path: int(path.name[5:] or 0)):
        name = _read(root / f"sys/class/video4linux/{device.name}/name") or "camera"
        if name.startswith(_CSI_NAME):
            csi.append(f"csi:{len(csi)} ({name.removeprefix(_CSI_NAME).strip(', ')})")
        elif (_read(root / f"sys/class/video4linux/{device.name}/index") or "0") == "0":
            (refused if open_node(device) else usable).append(f"/dev/{device.name} ({name})")
    if refused:
        text = f"this user may not open {', '.join(refused)}"
        yield Finding("Cameras", "lacks", text, "sudo usermod -aG video $USER; then log in again")
    if usable or csi:
        yield Finding("Cameras", "ok", ", ".join([*usable, *csi]))
    elif not refused:
        yield Finding("Cameras", "none", "none; files, rtsp:// and synthetic: work without one")
    if facts.board and not (root / "tmp/argus_socket").exists():
        yield Finding(
            "CSI daemon", "lacks", "nvargus-daemon does not run", "sudo systemctl restart nvargus-daemon"
        )


def check_sensors(root: Path, nvml: Nvml | None) -> Iterator[Finding]:
    """Check what `aerogaze profile` can read besides latency."""
    meter = find_energy_meter(root, nvml)
    if isinstance(meter, str):
        remedy = "sudo chmod a+r /sys/class/powercap/*/energy_uj" if "RAPL:" in meter else ""
        yield Finding("Energy meter", "lacks" if remedy else "none", meter, remedy)
    else:
        yield Finding("Energy meter", "ok", meter.description)
    sensors = Sensors(root, nvml)
    reading = sensors.read()
    counts = {
        "clocks": len(reading.clocks_mhz),
        "temperatures": len(reading.temperatures_c),
        "throttling": len(reading.throttle) + len(reading.throttle_counts),
    }
    readable = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
    missing = ", ".join(name for name, count in counts.items() if not count)
    text = f"readable: {readable or 'none'}" + (f"; not readable here: {missing}" if missing else "")
    yield Finding("Sensors", "none" if missing else "ok", text)


def check_disk(folders: Mapping[str, Path], free_bytes: Callable[[Path], int] | None = None) -> Finding:
    """Check the free space of folders, by what they are for."""
    measure = free_bytes or (lambda path: shutil.disk_usage(path).free)
    free = {name: measure(_existing(path)) for name, path in folders.items()}
    text = ", ".join(f"{name} {size / 1e9:.1f} GB free" for name, size in free.items())
    full = [name for name, size in free.items() if size < MIN_FREE_BYTES]
    if not full:
        return Finding("Disk", "ok", text)
    remedy = "free some space"
    if "cache" in full:
        remedy += ", or export AEROGAZE_CACHE=DIR on another disk"
    return Finding("Disk", "lacks", f"{text}; less than 2 GB: {', '.join(full)}", remedy)


def check_autopilot(
    endpoint: str, connect: Callable[[str], Any] | None = None, timeout_s: float = HEARTBEAT_TIMEOUT_S
) -> Finding:
    """Listen for the heartbeat of an autopilot.

    Args:
        endpoint: udpin:HOST:PORT, udpout:HOST:PORT or DEVICE[:BAUD]. A peer answers on udpout only after it
            has heard something, so heartbeats of an onboard computer are sent there, as a run does.
        connect: Opens the link; None takes pymavlink.
        timeout_s: Time to wait for a heartbeat.
    """
    try:
        connection = (connect or _connect)(endpoint)
    except ImportError as error:
        text = f"listening needs {error.name}, which is not installed"
        return Finding("Autopilot", "lacks", text, "pip install 'aerogaze[mavlink]'")
    except (OSError, ValueError, OverflowError) as error:
        return Finding("Autopilot", "lacks", f"the link does not open ({error})", "name another --mavlink")
    try:
        deadline = time.monotonic() + timeout_s
        while (remaining := deadline - time.monotonic()) > 0:
            if endpoint.startswith("udpout:"):
                connection.mav.heartbeat_send(18, 8, 0, 0, 4)  # onboard computer, no autopilot, active
            message = connection.recv_match(type="HEARTBEAT", blocking=True, timeout=min(remaining, 1.0))
            if message is not None and message.autopilot != 8:  # MAV_AUTOPILOT_INVALID: no autopilot
                armed = "armed" if message.base_mode & 128 else "disarmed"  # MAV_MODE_FLAG_SAFETY_ARMED
                return Finding("Autopilot", "ok", f"system {message.get_srcSystem()} is heard, {armed}")
    except OSError as error:
        return Finding("Autopilot", "lacks", f"the link broke ({error})", "check the cable or the router")
    finally:
        connection.close()
    return Finding(
        "Autopilot",
        "lacks",
        f"no heartbeat of an autopilot in {timeout_s:g} s",
        "check cable, baud rate, or the router's endpoint, such as udpin:0.0.0.0:14550",
    )


def _connect(endpoint: str) -> Any:
    from pymavlink import mavutil

    device, _, baud = endpoint.partition(":") if endpoint.startswith("/dev/") else (endpoint, "", "")
    return mavutil.mavlink_connection(device, baud=int(baud or 57600), retries=1)


def _existing(path: Path) -> Path:
    """Return the folder, or the first of its parents that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None
