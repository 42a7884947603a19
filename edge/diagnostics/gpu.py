"""Checks of the GPU: driver, cuInit, device nodes, CUDA backends and TensorRT."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.diagnostics.finding import Finding
from edge.diagnostics.packages import Packages
from edge.hardware.board import BoardFacts
from edge.hardware.cuda_driver import DriverAnswer
from edge.hardware.device_nodes import SERVICE_USER, DeviceNode, join_groups, summarize
from edge.hardware.gpu import find_remedy

_NVIDIA, _DISPLAY = "0x10de", "0x03"
"""PCI vendor of NVIDIA, and the first digits of the PCI class of a display controller."""
CUDA_BACKENDS = {
    "pycuda": ("pycuda", "edge.inference.cuda.pycuda_backend"),
    "cuda-bindings": ("cuda-bindings", "edge.inference.cuda.bindings"),
}
"""Distribution and module of each CUDA backend."""
TENSORRTS = {"TensorRT": "tensorrt", "TensorRT for RTX": "tensorrt_rtx"}


def check_gpu(
    root: Path, facts: BoardFacts, answer: DriverAnswer, nodes: Sequence[DeviceNode], packages: Packages
) -> Iterator[Finding]:
    """Check what TensorRT needs.

    Args:
        root: Root of the machine's file system.
        facts: Facts about the board.
        answer: What the CUDA driver answers.
        nodes: Device nodes of the GPU.
        packages: Packages of the environment.
    """
    has_gpu = facts.board is not None or bool(nodes) or bool(answer.gpus) or _has_pci_gpu(root)
    yield _check_driver(root, facts, answer, has_gpu)
    if answer.code is not None and (has_gpu or answer.code == 0):
        yield _check_cuinit(facts, answer, nodes)
    if nodes:
        yield _check_nodes(nodes)
    if facts.board and not any(node.name.startswith("dri/renderD") for node in nodes):
        remedy = "sudo modprobe tegra-drm; in a container: docker run --runtime nvidia"
        yield Finding("Render node", "lacks", "/dev/dri/renderD* does not exist; CUDA needs it", remedy)
    yield _check_backends(packages, has_gpu)
    yield _check_tensorrt(packages, facts, has_gpu)


def _check_driver(root: Path, facts: BoardFacts, answer: DriverAnswer, has_gpu: bool) -> Finding:
    kernel = _kernel_driver(root)
    parts = [
        facts.model or "",
        f"JetPack {facts.jetpack}" if facts.jetpack else "",
        f"L4T {facts.l4t}" if facts.l4t else "",
        f"kernel module {kernel}" if kernel else "",
        f"CUDA {answer.cuda}" if answer.cuda else "",
    ]
    text = ", ".join(filter(None, parts))
    if answer.code is not None:
        return Finding("NVIDIA driver", "ok", text or "libcuda.so.1 is there")
    if not has_gpu:
        return Finding("NVIDIA driver", "none", "no NVIDIA GPU: aerogaze runs on the CPU")
    if kernel or facts.board:
        remedy = "docker run --runtime nvidia" if facts.board else "docker run --gpus all"
        text = f"{text}; libcuda.so.1 is missing: {answer.problem}"
        return Finding("NVIDIA driver", "lacks", text, f"{remedy}; outside a container: install the driver")
    return Finding(
        "NVIDIA driver", "lacks", "there is an NVIDIA GPU without its driver", "sudo ubuntu-drivers install"
    )


def _check_cuinit(facts: BoardFacts, answer: DriverAnswer, nodes: Sequence[DeviceNode]) -> Finding:
    if not answer.code:
        gpus = ", ".join(f"{name} (compute capability {capability})" for name, capability in answer.gpus)
        return Finding("GPU", "ok" if gpus else "lacks", gpus or "the driver names no GPU")
    remedy = find_remedy(answer.code, facts, nodes, os.environ)
    return Finding("GPU", "lacks", f"cuInit gives {answer.code}, {answer.error_name}", remedy)


def _check_nodes(nodes: Sequence[DeviceNode]) -> Finding:
    refused = [node for node in nodes if node.is_refused]
    service = [node for node in nodes if node.service_refused]
    broken = [node for node in nodes if node.error and not node.is_refused]
    texts, remedies = [], []
    if refused:
        texts.append(f"refused to this user: {_describe(refused)}")
        remedies.append(join_groups(refused))
    if service:
        texts.append(f"refused to the service's user {SERVICE_USER}: {_describe(service)}")
        remedies.append(join_groups(service, SERVICE_USER))
    if broken:
        texts.append(f"do not open: {', '.join(f'{node.name} ({node.error})' for node in broken)}")
    if texts:
        return Finding("Device nodes", "lacks", "; ".join(texts), "; ".join(remedies))
    return Finding("Device nodes", "ok", f"open to this user: {summarize([node.name for node in nodes])}")


def _describe(nodes: Sequence[DeviceNode]) -> str:
    """Return nodes with their group and permissions."""
    kinds: dict[tuple[str, int], list[str]] = {}
    for node in nodes:
        kinds.setdefault((node.group, node.mode), []).append(node.name)
    return ", ".join(
        f"{summarize(names)} (group {group}, {mode:o})" for (group, mode), names in kinds.items()
    )


def _check_backends(packages: Packages, has_gpu: bool) -> Finding:
    texts, usable = [], False
    for name, (distribution, module) in CUDA_BACKENDS.items():
        version = packages.version(distribution)
        try:
            if version is not None:
                packages.load(module)
        except Exception as error:  # a broken library raises more than ImportError
            texts.append(f"{name} {version} does not load ({' '.join(str(error).split())})")
        else:
            usable = usable or version is not None
            texts.append(f"{name} {version or 'not installed'}")
    if usable:
        return Finding("CUDA backend", "ok", ", ".join(texts))
    remedy = "pip install 'aerogaze[cuda]', on JetPack 6 'aerogaze[cuda12]'"
    return Finding(
        "CUDA backend", "lacks" if has_gpu else "none", ", ".join(texts), remedy if has_gpu else ""
    )


def _check_tensorrt(packages: Packages, facts: BoardFacts, has_gpu: bool) -> Finding:
    texts, usable = [], False
    for name, module in TENSORRTS.items():
        if not packages.is_installed(module):
            texts.append(f"{name} not installed")
            continue
        try:
            texts.append(f"{name} {_tensorrt_version(packages, module)}")
            usable = True
        except Exception as error:  # a broken library raises more than ImportError
            texts.append(f"{name} does not load ({' '.join(str(error).split())})")
    if usable:
        return Finding("TensorRT", "ok", ", ".join(texts))
    remedy = (
        "sudo apt install python3-libnvinfer, then python3 -m venv --system-site-packages"
        if facts.board
        else "pip install 'aerogaze[rtx]'"
    )
    return Finding("TensorRT", "lacks" if has_gpu else "none", ", ".join(texts), remedy if has_gpu else "")


def _tensorrt_version(packages: Packages, module: str) -> str:
    loaded = packages.load(module)
    if not hasattr(loaded, "Builder"):
        raise ImportError("its libraries are missing")
    return str(loaded.__version__)


def _kernel_driver(root: Path) -> str | None:
    """Return the version of the desktop driver's kernel module."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return match[1] if match else None


def _has_pci_gpu(root: Path) -> bool:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False
