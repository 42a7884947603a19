"""Process group of a training that several processes share, as started by torchrun or SLURM's srun."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edge.core.errors import InputError
from edge.hardware.host import detect_machine


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that train together.

    Attributes:
        rank: Index of this process.
        world_size: Number of processes.
        local_world_size: Number of processes on this node.
    """

    rank: int
    world_size: int
    local_world_size: int


def process_group() -> ProcessGroup:
    """Return the process group from the environment of torchrun or srun; otherwise a single process.

    Raises:
        InputError: srun started more tasks on one node than on another.
    """
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        return ProcessGroup(
            int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        )
    if "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world_size = int(environment["SLURM_NTASKS"])
        per_node, remainder = divmod(world_size, int(environment.get("SLURM_NNODES", "1")))
        if remainder:
            raise InputError(
                f"srun started {world_size} tasks on {environment['SLURM_NNODES']} nodes; expected the same "
                "number on each node: set --ntasks-per-node"
            )
        # Lightning refuses to compute this number.
        environment.setdefault("SLURM_NTASKS_PER_NODE", str(per_node))
        return ProcessGroup(int(environment["SLURM_PROCID"]), world_size, per_node)
    return ProcessGroup(0, 1, 1)


def share_cores(workers: int = 0) -> None:
    """Let PyTorch compute on this process's share of the machine's cores.

    It keeps the number of threads that the user chose by OMP_NUM_THREADS. torchrun itself sets that variable
    to 1 if it is not set, so its processes share the cores at this value.

    Args:
        workers: Cores of that share that are left to processes that load data.
    """
    import torch  # here, since the help does not need it

    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and not (threads == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        return
    torch.set_num_threads(max(1, detect_machine().cores // process_group().local_world_size - workers))
