"""Start of the processes that render scenes and load samples."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.context import BaseContext


def worker_context() -> BaseContext:
    """Return the context that starts workers from a fork server instead of as copies of this process.

    A copied OpenCV waits forever for threads that were not copied. The fork server imports what workers need
    once for all stages.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.synthetic_pairs"])
    return context


def ignore_interrupts(worker: int = 0) -> None:
    """Ignore Ctrl-C, which a terminal sends to every process; the main process ends the workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
