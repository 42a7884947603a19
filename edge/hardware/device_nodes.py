"""Device nodes of the GPU: which exist, and who may open them.

Nodes and their sources:
[desktop] NVIDIA driver README, "Installed Components": /dev/nvidia0, nvidiactl, nvidia-uvm; mode 666.
[jetson]  Jetson Linux: /dev/nvmap, /dev/nvhost-*, /dev/nvgpu/igpu0/*, /dev/host1x-fence, group video;
          /dev/dri/renderD*, group render. On JetPack 6.2 cuInit answers 801 without /dev/dri/renderD*.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATTERNS = (
    "nvidia[0-9]*",
    "nvidiactl",
    "nvidia-uvm",
    "nvmap",
    "nvhost*",
    "nvgpu/igpu*/*",
    "host1x-fence",
    "dri/renderD*",
)
SERVICE_USER = "aerogaze"
SERVICE_FILE = f"etc/systemd/system/{SERVICE_USER}.service"
TryOpen = Callable[[Path], str]
"""Opens a node for reading and writing, closes it, and returns the error; empty for success."""


@dataclass(frozen=True)
class DeviceNode:
    """A device node.

    Attributes:
        name: Path below /dev.
        group: Group of the node.
        mode: Permissions.
        error: Why this user cannot open it; empty if it can.
        service_refused: The user of the service exists and may not open it.
    """

    name: str
    group: str
    mode: int
    error: str
    service_refused: bool

    @property
    def is_refused(self) -> bool:
        """Return whether permissions or the rules of a container stop this user."""
        return self.error in (os.strerror(errno.EACCES), os.strerror(errno.EPERM))


def try_open(path: Path) -> str:
    """Open a node for reading and writing, close it, and return the error; empty for success."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def list_nodes(root: Path = Path("/"), open_node: TryOpen = try_open) -> list[DeviceNode]:
    """Return the GPU's device nodes of the machine whose file system is at `root`."""
    groups = _read_groups(root)
    service_groups = _service_groups(root, groups)
    nodes = []
    for pattern in PATTERNS:
        for path in sorted((root / "dev").glob(pattern)):
            if path.is_dir():
                continue
            status = path.stat()
            refused = service_groups is not None and not _may_open(status, service_groups)
            nodes.append(
                DeviceNode(
                    str(path.relative_to(root / "dev")),
                    groups.get(status.st_gid, str(status.st_gid)),
                    stat.S_IMODE(status.st_mode),
                    open_node(path),
                    refused,
                )
            )
    return nodes


def summarize(names: list[str]) -> str:
    """Return names as a list in which several of one family become one entry: "nvhost* (12)"."""
    families: dict[str, list[str]] = {}
    for name in names:
        family = re.sub(r"[-0-9].*|(?<=/).*", "", name) if name.startswith(("nvhost", "nvgpu")) else name
        families.setdefault(family, []).append(name)
    return ", ".join(
        members[0] if len(members) == 1 else f"{family}* ({len(members)})"
        for family, members in families.items()
    )


def join_groups(nodes: Sequence[DeviceNode], user: str = "$USER") -> str:
    """Return the command that adds a user to the groups of nodes, where membership helps."""
    helpful = sorted({node.group for node in nodes if node.mode & 0o060 == 0o060})
    if not helpful or all(node.error == os.strerror(errno.EPERM) for node in nodes):  # rules of a container
        return "let the container use the devices: docker run --gpus all, or --device"
    login = "; then log in again" if user == "$USER" else ""
    return f"sudo usermod -aG {','.join(helpful)} {user}{login}"


def _read_groups(root: Path) -> dict[int, str]:
    """Return the names of groups by number."""
    rows = (line.split(":") for line in _read_lines(root / "etc/group"))
    return {int(row[2]): row[0] for row in rows if len(row) > 2 and row[2].isdigit()}


def _service_groups(root: Path, groups: dict[int, str]) -> set[int] | None:
    """Return the groups of the service's user, None if there is no such user."""
    users = (line.split(":") for line in _read_lines(root / "etc/passwd"))
    user = next((row for row in users if row[0] == SERVICE_USER and len(row) > 3), None)
    if user is None:
        return None
    unit = "\n".join(_read_lines(root / SERVICE_FILE))
    names = {name for line in re.findall(r"^SupplementaryGroups=(.*)$", unit, re.M) for name in line.split()}
    for row in (line.split(":") for line in _read_lines(root / "etc/group")):
        if len(row) > 3 and SERVICE_USER in row[3].split(","):
            names.add(row[0])
    return {int(user[3])} | {number for number, name in groups.items() if name in names}


def _may_open(status: os.stat_result, groups: set[int]) -> bool:
    """Return whether a user with these groups, who does not own the node, may read and write it."""
    wanted = stat.S_IRGRP | stat.S_IWGRP if status.st_gid in groups else stat.S_IROTH | stat.S_IWOTH
    return status.st_mode & wanted == wanted


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
