"""The GPU of this machine, or why CUDA cannot use one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.hardware.board import BoardFacts, read_board_facts
from edge.hardware.cuda_driver import ERRORS, DriverAnswer, ask_driver
from edge.hardware.device_nodes import DeviceNode, TryOpen, join_groups, list_nodes, try_open

NO_GPU = "there is no NVIDIA GPU here, or no driver for one"


@dataclass(frozen=True)
class Gpu:
    """Name and compute capability, such as "8.7", of the first GPU."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class GpuProblem:
    """Why CUDA cannot use a GPU here.

    Attributes:
        text: The problem, with the number and the name of cuInit's error if there is one.
        remedy: What to do; empty on a machine without any sign of a GPU.
        is_gpu_expected: The machine has a driver or is a board with a GPU: running on the CPU needs a reason.
    """

    text: str
    remedy: str
    is_gpu_expected: bool


def detect_gpu() -> Gpu | None:
    """Return the first GPU of the CUDA driver, or None if CUDA cannot use one; see `find_gpu_problem`."""
    gpus = ask_driver().gpus
    return Gpu(*gpus[0]) if gpus else None


def find_gpu_problem(
    answer: DriverAnswer | None = None, root: Path = Path("/"), open_node: TryOpen = try_open
) -> GpuProblem | None:
    """Return why CUDA cannot use a GPU, or None if it can.

    Args:
        answer: Answer of the driver; None asks it.
        root: Root of the machine's file system.
        open_node: Opens a device node to see whether this user may.
    """
    answer = answer or ask_driver()
    if answer.gpus:
        return None
    facts = read_board_facts(root)
    if answer.code is None:
        if facts.board is None:
            return GpuProblem(NO_GPU, "", False)
        remedy = "start a container with --runtime nvidia, else install JetPack's CUDA"
        return GpuProblem(f"CUDA's driver library does not load ({answer.problem})", remedy, True)
    if answer.code == 0:
        return GpuProblem("the CUDA driver names no GPU", "see: sudo dmesg | grep -iE 'nvgpu|nvidia'", True)
    remedy = find_remedy(answer.code, facts, list_nodes(root, open_node), os.environ)
    text = f"CUDA cannot use a GPU: cuInit gives {answer.code}, {answer.error_name}"
    return GpuProblem(text, remedy, True)


def find_remedy(
    code: int, facts: BoardFacts, nodes: Sequence[DeviceNode], environment: Mapping[str, str]
) -> str:
    """Return the remedy for an error of cuInit on this machine.

    Args:
        code: The error.
        facts: Facts about the board.
        nodes: Device nodes of the GPU.
        environment: Environment variables of the process.
    """
    refused = [node for node in nodes if node.is_refused]
    names = {node.name for node in nodes}
    if code in (100, 801, 999) and refused:
        return join_groups(refused)
    if code == 100 and environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    if code == 100:
        run = "--runtime nvidia" if facts.board else "--gpus all"
        return f"in a container: docker run {run}; else see: sudo dmesg | grep -i nvidia"
    if code == 801 and facts.board and not any(name.startswith("dri/renderD") for name in names):
        return "give the process /dev/dri/renderD*; in a container: docker run --runtime nvidia"
    if code == 999 and not facts.board and "nvidia-uvm" not in names:
        return "sudo nvidia-modprobe -u -c 0"
    if code == 999 and not facts.board:
        return "after a suspend: sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm"
    if code in ERRORS and code != 999:
        return ERRORS[code].remedy
    return "sudo dmesg | grep -iE 'nvgpu|nvidia', then sudo reboot"
