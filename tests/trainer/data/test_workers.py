"""Processes that render scenes and load samples."""

from __future__ import annotations

import subprocess
import sys


def test_interrupted_run_prints_no_warning_about_its_semaphores() -> None:
    program = (
        "import os; from trainer.data.workers import worker_context; "
        "semaphore = worker_context().Semaphore(1); os._exit(130)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (130, "")
