"""Facts about NVIDIA Jetson boards, for bundles, engines and measurements.

A table of Jetson modules and JetPack releases, and a reader of what the board at hand reports.

Sources, all by NVIDIA:
[orin]  "Jetson Orin" product page: memory of each module, number of DLA engines.
[thor]  "Jetson Thor" product page: memory.
[cc]    "CUDA GPU Compute Capability" page: Orin 8.7, Thor 11.0.
[dla]   TensorRT documentation, "Working with DLA": none on Orin Nano; TensorRT names none for Thor.
[jp]    JetPack archive and release notes: which Jetson Linux and which TensorRT a JetPack contains.
Power modes differ by module, memory and JetPack. They are read from the board's /etc/nvpmodel.conf; there is
no table of them. Facts that no source confirms are left out. Nothing here has been verified on a board yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JetsonModule:
    """A Jetson module.

    Attributes:
        board: Its name in bundles and reports.
        models: Matches its model in the device tree, in lower case.
        compute_capability: Of its GPU, such as "8.7".
        dla_cores: Largest number of DLA engines.
        memory_gb: Memory sizes that the module is sold with.
    """

    board: str
    models: re.Pattern[str]
    compute_capability: str
    dla_cores: int
    memory_gb: tuple[int, ...]


JETSON_MODULES = (
    JetsonModule("orin-nano", re.compile("orin nano"), "8.7", 0, (4, 8)),  # [cc] [dla] [orin]
    JetsonModule("orin-nx", re.compile("orin nx"), "8.7", 2, (8, 16)),  # [cc] [orin]; one DLA with 8 GB
    JetsonModule("agx-orin", re.compile("agx orin"), "8.7", 2, (32, 64)),  # [cc] [orin]
    JetsonModule("agx-thor", re.compile("agx thor|jetson thor"), "11.0", 0, (64, 128)),  # [cc] [dla] [thor]
)


@dataclass(frozen=True)
class JetPackRelease:
    """A JetPack release, its Jetson Linux (L4T) and its TensorRT; None where no source confirms it."""

    l4t: str
    version: str
    tensorrt: str | None


JETPACK_RELEASES = (
    JetPackRelease("36.4.0", "6.1", "10.3"),  # [jp]
    JetPackRelease("36.4.3", "6.2", "10.3"),  # [jp]
    JetPackRelease("36.4.4", "6.2.1", "10.3"),  # [jp]
    JetPackRelease("38.2", "7.0", None),  # [jp]
    JetPackRelease("38.2.1", "7.0", None),  # [jp]
)


@dataclass(frozen=True)
class BoardFacts:
    """What a board reports about itself; None if it reports nothing or is no known Jetson.

    Attributes:
        model: Model in the device tree.
        board: Name of the Jetson module.
        compute_capability: Of the module's GPU.
        l4t: Version of Jetson Linux.
        jetpack: Version of the JetPack package; without one, of the JetPack that contains this L4T.
        tensorrt: Version of the TensorRT package, or of the one in the JetPack.
        power_mode: Number of the power mode, as `nvpmodel` stores it.
        power_modes: Names of the power modes by number, from nvpmodel.conf.
    """

    model: str | None
    board: str | None
    compute_capability: str | None
    l4t: str | None
    jetpack: str | None
    tensorrt: str | None
    power_mode: str | None
    power_modes: Mapping[str, str]

    @property
    def jetpack_or_l4t(self) -> str | None:
        """Return the JetPack, or the L4T where the JetPack is unknown, for reports and engine identities."""
        return self.jetpack or (f"L4T {self.l4t}" if self.l4t else None)

    @property
    def power_mode_name(self) -> str | None:
        """Return the name of the power mode, such as 15W."""
        return self.power_modes.get(self.power_mode or "", self.power_mode)


def read_board_facts(root: Path = Path("/")) -> BoardFacts:
    """Return the facts about the board whose file system is at `root`."""
    model = _read(root / "proc/device-tree/model")
    module = find_jetson_module(model)
    l4t = _read_l4t(root)
    release = next(
        (release for release in JETPACK_RELEASES if l4t and _strip_zeros(release.l4t) == _strip_zeros(l4t)),
        None,
    )
    power_modes = re.findall(
        r"<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", _read(root / "etc/nvpmodel.conf") or ""
    )
    return BoardFacts(
        model=model,
        board=module.board if module else None,
        compute_capability=module.compute_capability if module else None,
        l4t=l4t,
        jetpack=_read_jetpack(root) or (release.version if release else None),
        tensorrt=_read_tensorrt(root) or (release.tensorrt if release else None),
        power_mode=_read_power_mode(root),
        power_modes=dict(power_modes),
    )


def find_jetson_module(model: str | None) -> JetsonModule | None:
    """Return the module that a model of the device tree names."""
    text = (model or "").lower()
    return next((module for module in JETSON_MODULES if module.models.search(text)), None)


def _read_l4t(root: Path) -> str | None:
    """Return 36.4.3 from `# R36 (release), REVISION: 4.3, GCID: ...`."""
    text = _read(root / "etc/nv_tegra_release")
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text or "")
    return f"{match.group(1)}.{match.group(2)}" if match else None


def _strip_zeros(l4t: str) -> str:
    """Return the version without trailing zeros: 38.2.0 is the same release as 38.2."""
    return re.sub(r"(\.0)+$", "", l4t)


def _read_jetpack(root: Path) -> str | None:
    """Return the version in the package database: 6.2 from 6.2+b77."""
    text = _read(root / "var/lib/dpkg/status", max_bytes=1 << 26) or ""
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)", text, re.M)
    return match.group(1) if match else None


def _read_tensorrt(root: Path) -> str | None:
    """Return the version in the package database."""
    text = _read(root / "var/lib/dpkg/status", max_bytes=1 << 26) or ""
    match = re.search(r"^Package: libnvinfer(?:-bin|\d+)\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)", text, re.M)
    return match.group(1) if match else None


def _read_power_mode(root: Path) -> str | None:
    """Return the number in the status file of `nvpmodel`: 2 from `pmode:0002`."""
    match = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status") or "")
    return str(int(match.group(1))) if match else None


def _read(path: Path, max_bytes: int = 1 << 16) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return None
