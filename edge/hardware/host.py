"""Processor and operating system of this machine, recorded with every measurement."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

RETAINED_BLOCK_BYTES = 30 << 20
"""glibc's limit for the size of a block that raises its thresholds is 32 MB."""


@dataclass(frozen=True)
class HostMachine:
    """A machine.

    Attributes:
        cpu: Name of the processor.
        architecture: Such as x86_64 or aarch64.
        flags: Instruction set extensions, as the kernel names them.
        cores: Number of cores that this process may use.
        system: Operating system.
    """

    cpu: str
    architecture: str
    flags: frozenset[str]
    cores: int
    system: str

    def computes_natively(self, precision: str) -> bool:
        """Return whether the CPU has instructions for a precision; otherwise it is emulated.

        int8 needs dot products (AVX-VNNI, AVX512-VNNI, SDOT of Arm): without them x86 kernels are slower and
        can saturate. fp16 needs the half-precision arithmetic of Arm, the only one that the CPU kernels of
        ONNX Runtime use.
        """
        if precision == "int8":
            return bool(self.flags & {"avx_vnni", "avx512_vnni", "asimddp"})
        if precision == "fp16":
            return "asimdhp" in self.flags
        return True


@cache
def detect_machine() -> HostMachine:
    """Return this machine, from /proc/cpuinfo and `platform`."""
    info: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip().lower(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return HostMachine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        flags=frozenset((info.get("flags") or info.get("features") or "").split()),
        cores=cores,
        system=platform.platform(),
    )


@cache
def retain_freed_memory() -> None:
    """Let the C library keep freed arrays instead of giving them back to the system.

    By default, glibc gives each array of more than 128 KB back as soon as it is freed. The next one of its
    size costs a page fault for every 4 KB, so that a resize of a frame may take four times as long. This
    limit rises to the size of the largest block that was freed (`M_MMAP_THRESHOLD` in mallopt(3)), so one is
    allocated here and never touched. Other C libraries ignore it.

    A process keeps up to 60 MB for each thread that allocates large arrays: with six threads that freed 56 MB
    each, it kept 200 MB more. `MALLOC_MMAP_THRESHOLD_=131072` in the environment turns this off.
    """
    np.empty(RETAINED_BLOCK_BYTES, np.uint8)
