"""Two machines train one student and share a labelling, by torchrun and by Slurm; one loses its power.

A machine is a container with a systemd, a name, an address, processes and a disk of its own. Python, PyTorch
and Aerogaze are those of this machine, mounted so that they cannot be written. What a cluster has on a file
server is a folder of this machine. The processors and the kernel are shared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.board_images import ROOT, BoardImages, cluster_image
from tests.support.training import SHORT_SKD, set_options
from tests.support.virtual_board import Board, Desk, mounted
from tests.support.waiting import wait_until
from trainer.data.map_shards import ShardedMaps

pytestmark = pytest.mark.long
NAMES = ("one", "two")
LIMIT_S = 1800.0
"""Longest time of a command on a busy machine."""
PROGRAMS = f"{sys.prefix}/bin"
TRAIN = [
    "train", "demo", "--interval", "5",
    *set_options({**SHORT_SKD, "world.scenes": 9, "network.steps": 40}),
]  # fmt: skip
SLURM = f"""ClusterName=aerogaze
SlurmctldHost={NAMES[0]}
NodeName={",".join(NAMES)} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmdTimeout=60
ReturnToService=2
"""
"""Settings of Slurm: a machine that is lost is noticed after a minute, and taken again when it is back."""


@dataclass(frozen=True)
class Cluster:
    """Two machines that share a folder.

    Attributes:
        machines: The machines.
        shared: Folder of this machine that is `/shared` on both.
        threads: Threads that wait for the commands.
    """

    machines: tuple[Board, Board]
    shared: Path
    threads: ThreadPoolExecutor

    def start(self, number: int, *words: str) -> Future[str]:
        """Start a command on a machine as root, in the shared folder. The result is what it prints."""
        # The machines share the cores, so a thread that waits must not keep one busy.
        script = f"cd /shared; exec env OMP_WAIT_POLICY=passive {' '.join(words)} 2>&1"
        return self.threads.submit(self.machines[number].script, script, LIMIT_S)

    def start_torchrun(self, number: int, *words: str) -> Future[str]:
        """Start torchrun with a process of `aerogaze` on a machine, as docs/reference/train.md has it."""
        return self.start(
            number, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", f"{PROGRAMS}/torchrun", "--nnodes", "2",
            "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{NAMES[0]}:29400",
            "--rdzv-id", "test", "--max-restarts", "3", "--no-python", "--", f"{PROGRAMS}/aerogaze", *words,
        )  # fmt: skip

    def start_srun(self, *words: str) -> Future[str]:
        """Start srun with a process of `aerogaze` on each machine."""
        assert wait_until(lambda: self.machines[0].ssh("sinfo", "-ho", "%T/%D").stdout == "idle/2\n", LIMIT_S)
        return self.start(0, "srun", "-N", "2", "--ntasks-per-node", "1", f"{PROGRAMS}/aerogaze", *words)

    def cut_power_after_a_checkpoint(self, run: str, training: Future[str]) -> None:
        """Cut cable and power of the second machine when the network of a run has a checkpoint.

        Without the cable, no connection of the machine is closed: to the other one it is silent.
        """
        folder = self.shared / run / "network"
        assert wait_until(lambda: training.done() or (folder / "last.ckpt").exists(), LIMIT_S)
        assert not training.done(), training.result()
        self.machines[1].pull_cable()
        self.machines[1].pull_plug()
        assert not (folder / "done.pt").exists(), "the cut came before the end"

    def restore_power(self) -> None:
        """Start the second machine again."""
        self.machines[1].plug_cable()
        self.machines[1].start()

    def check_resumed(self, name: str, student: Path) -> None:
        """Check that a run went on from a checkpoint and ended with the weights of a student, bit for bit."""
        assert list((self.shared / name / "network").glob("from-*")), "metrics from a checkpoint on"
        weights, expected = load_file(self.shared / f"{name}.safetensors"), load_file(student)
        assert weights.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(weights[key], values, err_msg=key)


@pytest.fixture(scope="module")
def cluster(desk: Desk, images: BoardImages) -> Iterator[Cluster]:
    """Two running machines."""
    try:
        image = cluster_image(images)
    except RuntimeError as error:
        pytest.skip(f"the disk of a machine of a cluster cannot be made: {error}")
    shared = desk.folder / "shared"
    shared.mkdir()
    # A Python of Debian is on the machines' own disks.
    places = {str(ROOT), sys.prefix, sys.base_prefix} - {"/usr"}
    options = [f"--bind={shared}:/shared", *(f"--bind-ro={place}" for place in sorted(places))]
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        machines = [
            stack.enter_context(desk.board(desk.clone(image, f"{name}.img"), *options)) for name in NAMES
        ]
        # With the name at 127.0.0.1 or 127.0.1.1, as Debian installs it, gloo would listen there.
        hosts = [f"{machine.address} {name}\n" for machine, name in zip(machines, NAMES, strict=True)]
        for machine, name in zip(machines, NAMES, strict=True):
            with mounted(machine.image, desk.folder / "install") as root:
                (root / "etc/hostname").write_text(f"{name}\n")
                (root / "etc/hosts").write_text("".join(["127.0.0.1 localhost\n", *hosts]))
                (root / "etc/slurm/slurm.conf").write_text(SLURM)
                # The container has no hierarchy of control groups that slurmd's default could use.
                (root / "etc/slurm/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
                if name != NAMES[0]:
                    (root / "etc/systemd/system/multi-user.target.wants/slurmctld.service").unlink()
            machine.start()
        yield Cluster((machines[0], machines[1]), shared, threads)


@pytest.fixture(scope="module")
def student(cluster: Cluster) -> Path:
    """Student that both machines trained by torchrun, undisturbed."""
    commands = [cluster.start_torchrun(number, *TRAIN, "--out", "s.safetensors") for number in (0, 1)]
    outputs = [command.result() for command in commands]
    assert ["wrote s.safetensors" in output for output in outputs] == [True, False]
    return cluster.shared / "s.safetensors"


def test_training_by_torchrun_goes_on_when_a_machine_that_lost_its_power_is_back(
    cluster: Cluster, student: Path
) -> None:
    words = [*TRAIN, "--out", "cut.safetensors", "--run", "cut"]
    first, second = (cluster.start_torchrun(number, *words) for number in (0, 1))
    cluster.cut_power_after_a_checkpoint("cut", first)
    cluster.restore_power()
    assert second.exception() is not None
    cluster.start_torchrun(1, *words).result()
    assert "wrote cut.safetensors" in first.result()
    cluster.check_resumed("cut", student)


def test_training_by_slurm_goes_on_when_a_machine_that_lost_its_power_is_back(
    cluster: Cluster, student: Path
) -> None:
    words = [*TRAIN, "--out", "slurm.safetensors", "--run", "slurm"]
    training = cluster.start_srun(*words)
    cluster.cut_power_after_a_checkpoint("slurm", training)
    assert "Node failure on two" in str(training.exception())
    cluster.restore_power()
    assert "wrote slurm.safetensors" in cluster.start_srun(*words).result()
    cluster.check_resumed("slurm", student)


@pytest.fixture(scope="module")
def label_words(cluster: Cluster, flight: np.ndarray) -> list[str]:
    """Arguments that label four videos, each in a shard of its own."""
    (cluster.shared / "videos").mkdir()
    for number in range(4):
        path = cluster.shared / "videos" / f"{number}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 180))
        for frame in flight[2 * number : 2 * number + 5]:
            writer.write(frame)
        writer.release()
    return ["label", "skd-64", "--dataset", "videos", "--root", "videos", "--clips-per-shard", "1"]


@pytest.fixture(scope="module")
def maps(cluster: Cluster, label_words: list[str]) -> ShardedMaps:
    """Maps of the videos by one process."""
    cluster.start(0, f"{PROGRAMS}/aerogaze", *label_words, "--out", "maps").result()
    return ShardedMaps(cluster.shared / "maps")


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_two_machines_share_a_labelling(
    launcher: str, cluster: Cluster, label_words: list[str], maps: ShardedMaps
) -> None:
    words = [*label_words, "--out", launcher]
    if launcher == "torchrun":
        commands = [cluster.start_torchrun(number, *words) for number in (0, 1)]
    else:
        commands = [cluster.start_srun(*words)]
    assert "".join(command.result() for command in commands).count("wrote 2 of 4 shards") == 2
    shared = ShardedMaps(cluster.shared / launcher)
    assert shared.clips == maps.clips == {f"{number}.avi": 5 for number in range(4)}
    for clip in maps.clips:
        for frame in maps.frames(clip):
            np.testing.assert_array_equal(shared.map(clip, frame), maps.map(clip, frame))
