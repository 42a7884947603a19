"""What machine this is: recorded beside every measurement."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """CPU, its instruction flags as the kernel names them, cores this process may use, system."""

    cpu: str
    architecture: str
    flags: frozenset[str]
    cores: int
    system: str

    def native(self, precision: str) -> bool:
        """Say whether the CPU computes in `precision` itself; otherwise it is emulated.

        int8 needs dot products (AVX-VNNI, AVX512-VNNI, Arm's SDOT): without them x86 kernels are
        slower and may saturate. fp16 needs Arm's half-precision arithmetic, the only one that
        ONNX Runtime's CPU kernels use.
        """
        if precision == "int8":
            return bool(self.flags & {"avx_vnni", "avx512_vnni", "asimddp"})
        if precision == "fp16":
            return "asimdhp" in self.flags
        return True


@cache
def this_machine() -> Machine:
    """Return the machine at hand, read from /proc/cpuinfo and `platform`."""
    info: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip().lower(), value.strip())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        flags=frozenset((info.get("flags") or info.get("features") or "").split()),
        cores=cores,
        system=platform.platform(),
    )
