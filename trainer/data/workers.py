"""Start of the processes that render scenes and load samples."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from threading import Thread

NO_TRACKER_WARNING = "ignore:resource_tracker:UserWarning"
"""Filter of the warning about semaphores of an interrupted run, which the process that warns removes."""


def worker_context() -> BaseContext:
    """Return the context that starts workers from a fork server instead of as copies of this process.

    A copied OpenCV waits forever for threads that were not copied. The fork server imports what workers need
    once for all stages.
    """
    # The process that removes what a run leaves behind inherits this.
    filters = os.environ.get("PYTHONWARNINGS", "")
    if NO_TRACKER_WARNING not in filters:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (filters, NO_TRACKER_WARNING)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.synthetic_pairs"])
    return context


def prepare_worker(worker: int = 0) -> None:
    """Ignore Ctrl-C, which a terminal sends to every process, and end this worker with the main process.

    The main process ends its workers, but not if it is killed. PyTorch's workers watch their parent, which is
    the fork server. The fork server in turn lives as long as its children, so nobody would end.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None:
        Thread(target=_exit_with, args=(main.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
