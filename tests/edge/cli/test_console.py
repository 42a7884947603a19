"""Messages on the terminal."""

from __future__ import annotations

import os
import subprocess
import sys


def test_closed_standard_error_does_not_end_the_process() -> None:
    code = (
        "import os, sys; from edge.cli.console import show_log; from edge.core.run_status import LOG\n"
        "with show_log(LOG):\n"
        "    for _ in range(3): LOG.warning('a warning')\n"
        "print('the summary')\n"
        "sys.exit(7)"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write_end, timeout=60
        )
    finally:
        os.close(write_end)
    assert (result.returncode, result.stdout) == (7, b"the summary\n")
