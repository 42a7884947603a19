"""Stand-ins for what `aerogaze doctor` asks: packages, the CUDA driver, and a board's file tree."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.sensor_trees import ORIN_FILES, write_tree

BUILD = "    FFMPEG:      YES\n    GStreamer:   YES (1.20.3)\n    v4l/v4l2:    YES (linux/videodev2.h)\n"
ORIN_NODES = (
    "nvmap",
    "nvhost-ctrl-gpu",
    "nvhost-gpu",
    "nvhost-as-gpu",
    "nvgpu/igpu0/ctrl",
    "nvgpu/igpu0/channel",
    "host1x-fence",
    "dri/renderD128",
)
ORIN_SYSTEM = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
}


class StandInPackages:
    """Environment with given modules and versions.

    Args:
        modules: The modules that load; an exception is raised instead.
        versions: Version by distribution.
    """

    def __init__(self, modules: Mapping[str, Any], versions: Mapping[str, str] | None = None) -> None:
        self._modules, self._versions = modules, versions or {}

    def load(self, module: str) -> Any:
        found = self._modules.get(module, ModuleNotFoundError(f"No module named {module!r}"))
        if isinstance(found, Exception):
            raise found
        return found

    def is_installed(self, module: str) -> bool:
        return module in self._modules

    def version(self, distribution: str) -> str | None:
        return self._versions.get(distribution)


def drone_modules(build: str = BUILD) -> dict[str, Any]:
    """Return the modules that every run needs, with an OpenCV of this build."""
    return {
        "numpy": SimpleNamespace(__version__="2.1.0"),
        "cv2": SimpleNamespace(__version__="4.10.0", getBuildInformation=lambda: build),
        "onnxruntime": SimpleNamespace(
            __version__="1.20.0", get_available_providers=lambda: ["CPUExecutionProvider"]
        ),
    }


class StandInDriver:
    """CUDA driver that answers cuInit with a code and has one GPU."""

    def __init__(self, code: int = 0, version: int = 12060) -> None:
        self._code, self._version = code, version

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - the driver's name
        version._obj.value = self._version
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
        assert flags == 0
        return self._code

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - the driver's name
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802 - the driver's name
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0


def write_orin(root: Path, nodes: tuple[str, ...] = ORIN_NODES, mode: int = 0o660) -> Path:
    """Write the tree of an Orin Nano: sensors, device nodes as files, users and groups."""
    write_tree(root, {**ORIN_FILES, **ORIN_SYSTEM, **{f"dev/{node}": "" for node in nodes}})
    for node in nodes:
        (root / "dev" / node).chmod(mode)
    group = root.stat().st_gid
    return write_tree(
        root,
        {
            "etc/group": f"render:x:{group}:\nvideo:x:4444:aerogaze\n",
            "etc/passwd": "aerogaze:x:990:990::/nonexistent:/usr/sbin/nologin\n",
        },
    )
