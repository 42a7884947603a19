"""What board this is: the one place that reads it. Bundles, engines and measurements all ask here.

Jetson modules, what a bundle may ask for of them, and what the board at hand says of itself.

Sources, all NVIDIA's:
[orin]  "Jetson Orin" product page: memory of each module, number of DLA engines.
[thor]  "Jetson Thor" product page: memory.
[cc]    "CUDA GPU Compute Capability" page: Orin 8.7, Thor 11.0.
[dla]   TensorRT documentation, "Working with DLA": none on Orin Nano; TensorRT names none for Thor.
[jp]    JetPack archive and release notes: which Jetson Linux and which TensorRT a JetPack brings.
Power modes differ by module, memory and JetPack: they are read from the board's own /etc/nvpmodel.conf, and
no table is kept of them. What is not sure is left out. None of this was seen on a real board yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Module:
    """A kind of Jetson module. `models` are what the device tree may call it, in lower case."""

    board: str
    models: re.Pattern[str]
    compute_capability: str
    dla_cores: int
    memory_gb: tuple[int, ...]


MODULES = (
    Module("orin-nano", re.compile("orin nano"), "8.7", 0, (4, 8)),  # [cc] [dla] [orin]
    Module("orin-nx", re.compile("orin nx"), "8.7", 2, (8, 16)),  # [cc] [orin]; with 8 GB one DLA engine
    Module("agx-orin", re.compile("agx orin"), "8.7", 2, (32, 64)),  # [cc] [orin]
    Module("agx-thor", re.compile("agx thor|jetson thor"), "11.0", 0, (64, 128)),  # [cc] [dla] [thor]
)


@dataclass(frozen=True)
class JetPack:
    """A JetPack, the Jetson Linux (L4T) that it is for, and the TensorRT that it brings (None: not sure)."""

    l4t: str
    version: str
    tensorrt: str | None


JETPACKS = (
    JetPack("36.4.0", "6.1", "10.3"),  # [jp]
    JetPack("36.4.3", "6.2", "10.3"),  # [jp]
    JetPack("36.4.4", "6.2.1", "10.3"),  # [jp]
    JetPack("38.2", "7.0", None),  # [jp]
    JetPack("38.2.1", "7.0", None),  # [jp]
)


@dataclass(frozen=True)
class Facts:
    """What the board says. None: it does not say, or is no Jetson that we know."""

    model: str | None
    board: str | None
    compute_capability: str | None
    l4t: str | None
    jetpack: str | None
    """The version of its package, or, without one, of the JetPack that its L4T belongs to."""
    tensorrt: str | None
    power_mode: str | None
    """The mode's number, as `nvpmodel` remembers it."""
    power_modes: Mapping[str, str]
    """Names of the modes by number: as the board's own nvpmodel.conf says."""

    @property
    def software(self) -> str | None:
        """Return the JetPack, or, where it is not told, the L4T, for reports and an engine's identity."""
        return self.jetpack or (f"L4T {self.l4t}" if self.l4t else None)

    @property
    def power_mode_name(self) -> str | None:
        """Return the power mode as people call it, such as 15W."""
        return self.power_modes.get(self.power_mode or "", self.power_mode)


def read_facts(root: Path = Path("/")) -> Facts:
    """Read the board's facts; `root` is another folder in tests and for stand-ins."""
    model = _read(root / "proc/device-tree/model")
    module = find_module(model)
    l4t = _l4t(_read(root / "etc/nv_tegra_release"))
    jetpack = next((jetpack for jetpack in JETPACKS if l4t and _short(jetpack.l4t) == _short(l4t)), None)
    return Facts(
        model,
        module.board if module else None,
        module.compute_capability if module else None,
        l4t,
        _jetpack(root) or (jetpack.version if jetpack else None),
        _tensorrt(root) or (jetpack.tensorrt if jetpack else None),
        _power_mode(root),
        dict(re.findall(r"<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", _read(root / "etc/nvpmodel.conf") or "")),
    )


def find_module(model: str | None) -> Module | None:
    """Return the module that the device tree's model names."""
    text = (model or "").lower()
    return next((module for module in MODULES if module.models.search(text)), None)


def _l4t(text: str | None) -> str | None:
    """As in `# R36 (release), REVISION: 4.3, GCID: ...`."""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text or "")
    return f"{match.group(1)}.{match.group(2)}" if match else None


def _short(l4t: str) -> str:
    """38.2 is 38.2.0."""
    return re.sub(r"(\.0)+$", "", l4t)


def _jetpack(root: Path) -> str | None:
    """As the package database has it: 6.2 of 6.2+b77."""
    text = _read(root / "var/lib/dpkg/status", most=1 << 26) or ""
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)", text, re.M)
    return match.group(1) if match else None


def _tensorrt(root: Path) -> str | None:
    """As the package database has it."""
    text = _read(root / "var/lib/dpkg/status", most=1 << 26) or ""
    match = re.search(r"^Package: libnvinfer(?:-bin|\d+)\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)", text, re.M)
    return match.group(1) if match else None


def _power_mode(root: Path) -> str | None:
    """`nvpmodel` keeps the mode's number in its status file, as `pmode:0002`."""
    match = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status") or "")
    return str(int(match.group(1))) if match else None


def _read(path: Path, most: int = 1 << 16) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(most).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return None
