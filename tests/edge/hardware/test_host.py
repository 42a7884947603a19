from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource
import numpy as np
from edge.hardware.host import retain_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.empty(1_000_000, np.uint8) for _ in range(4)]
        for array in arrays:
            array.fill(1)
        del arrays, array
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

retain_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other thresholds")
def test_retained_memory_is_not_faulted_in_again() -> None:
    # In a process of its own: earlier tests have raised the thresholds of this one.
    command = [sys.executable, "-c", PAGE_FAULTS]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 100
