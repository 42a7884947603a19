"""Training loop: resuming after a kill, several processes, interrupts, and losses that diverge."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.support.made_once import MadeOnce
from tests.support.ports import free_tcp_port
from tests.support.training import (
    SHORT_SKD,
    KilledError,
    assert_equal_weights,
    run_torchrun,
    set_options,
    short_skd_recipe,
)
from trainer.models.student import load_student
from trainer.recipes.loader import StageTable
from trainer.training import distributed
from trainer.training.distributed import ProcessGroup, process_group, share_cores
from trainer.training.loop import TrainingRun, fit
from trainer.training.monitor import TrainingProgress
from trainer.training.run import train
from trainer.training.stage import Batch, TrainingStage


class Points(Dataset[dict[str, Tensor]]):
    """Points on a line, to which a linear network is fitted."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.tensor([index / 20 - 1, 1.0])
        return {"x": x, "y": x @ torch.tensor([3.0, -2.0])}


class Line(TrainingStage):
    """Linear network without batch statistics, which two processes train exactly like one."""

    def __init__(self, table: StageTable) -> None:
        super().__init__(table)
        self.layer = nn.Linear(2, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.inputs: list[float] = []

    def loss(self, batch: Batch) -> Tensor:
        self.inputs += batch["x"][:, 0].tolist()
        error = self.layer(batch["x"])[:, 0] - batch["y"]
        return torch.mean(error * error)


TABLE = StageTable(steps=30, batch=8, rate=0.05, schedule="cosine", average=0.5)


def test_each_epoch_has_every_sample_once_in_new_order() -> None:
    line = Line(TABLE)
    fit("line", line, Points(), short_skd_recipe(), TABLE)
    epochs = [sorted(line.inputs[start : start + 40]) for start in range(0, 240, 40)]
    assert all(epoch == epochs[0] and len(set(epoch)) == 40 for epoch in epochs)
    assert line.inputs[:40] != line.inputs[40:80]


@pytest.mark.parametrize("killed_at", [1, 7, 10, 29])
def test_killed_run_resumes_and_ends_with_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, killed_at: int
) -> None:
    def kill(progress: TrainingProgress) -> None:
        if progress.step == killed_at:
            raise KilledError

    uninterrupted = Line(TABLE)
    fit("line", uninterrupted, Points(), short_skd_recipe(), TABLE)
    with pytest.raises(KilledError):
        fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path, 5, kill))
    steps: list[int] = []
    resumed = Line(TABLE)
    fit(
        "line",
        resumed,
        Points(),
        short_skd_recipe(),
        TABLE,
        TrainingRun(tmp_path, 5, lambda p: steps.append(p.step)),
    )
    assert steps == list(range((killed_at - 1) // 5 * 5 + 1, 31)) or steps[0] == killed_at + 1
    torch.testing.assert_close(resumed.state_dict(), uninterrupted.state_dict())
    loaded = Line(TABLE)
    fit(
        "line", loaded, Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path, 5, kill)
    )  # finished: no step runs
    torch.testing.assert_close(loaded.layer.weight, uninterrupted.layer.weight)


def test_finished_stages_are_loaded_instead_of_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    first = train(short_skd_recipe(), TrainingRun(tmp_path, on_step=lambda p: stages.append(p.stage)))
    assert stages.count("network") == 3
    second = train(short_skd_recipe(), TrainingRun(tmp_path, on_step=lambda p: stages.append(p.stage)))
    assert stages.count("network") == 3
    assert_equal_weights(second.network, first.network)
    with pytest.raises(InputError, match="training of another recipe"):
        train(short_skd_recipe(seed="5"), TrainingRun(tmp_path, pool=tmp_path / "pool"))
    assert not (tmp_path / "pool").exists(), "refused before scenes are rendered"
    monkeypatch.setenv("AEROGAZE_RANGE", "7000,9500")
    with pytest.raises(
        InputError, match="a training with --range auto, this one has 7000,9500: give the same"
    ):
        train(short_skd_recipe(), TrainingRun(tmp_path))
    monkeypatch.delenv("AEROGAZE_RANGE")
    scenes = json.loads((tmp_path / "scenes.json").read_text())
    (tmp_path / "scenes.json").write_text(json.dumps({**scenes, "simulation": "older"}))
    with pytest.raises(InputError, match=f"of another version .*: add --pool {scenes['pool']} to go on"):
        train(short_skd_recipe(), TrainingRun(tmp_path))


@pytest.mark.parametrize("name", ["last.ckpt", "done.pt"])
@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_unreadable_weights_are_reported_with_their_path(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} .*: remove it to (start|train) the stage again"):
        fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path))


class _CreatesFile:
    """Code in a checkpoint: whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_code_is_refused_and_nothing_is_run(tmp_path: Path, zipped: bool) -> None:
    created = tmp_path / "created"
    for key in ("callbacks", "loops", "global_step"):
        (tmp_path / "line").mkdir(exist_ok=True)
        checkpoint = {"global_step": 5, key: _CreatesFile(created)}
        torch.save(checkpoint, tmp_path / "line" / "last.ckpt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match="nothing of it was run: remove it to start the stage") as caught:
            fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path))
        assert not created.exists()
        assert "\n" not in str(caught.value)


class Rising(Line):
    """Stage whose loss rises steadily."""

    def loss(self, batch: Batch) -> Tensor:
        raised: Tensor = 0 * self.layer(batch["x"]).mean() + 1 + self.global_step / 20
        return raised


RISE = r"line: the loss rose to .* from .* at the start"


class RisingFromBelow(Rising):
    """Stage whose loss rises from a negative value, as NSS can."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) - 3


@pytest.mark.parametrize("kind", [Rising, RisingFromBelow])
def test_rising_loss_ends_the_training(kind: type[Rising]) -> None:
    table = StageTable(steps=400, batch=8)
    with pytest.raises(InputError, match=RISE):
        fit("line", kind(table), Points(), short_skd_recipe(), table)


def test_weights_that_are_not_finite_are_reported_and_not_stored(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, batch: Batch) -> Tensor:
            self.layer.weight.data[0, 0] = float("nan")  # as a wrong gradient would, where no loss sees it
            return self.layer.bias.square().mean()

    with pytest.raises(InputError, match=r"line: layer.weight is not finite after 30 steps"):
        fit("line", Broken(TABLE), Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path))
    assert not (tmp_path / "line" / "done.pt").exists()


def test_resumed_run_compares_its_loss_with_that_of_the_first_steps(tmp_path: Path) -> None:
    def kill(progress: TrainingProgress) -> None:
        if progress.step == 45:
            raise KilledError

    table = StageTable(steps=100, batch=8)
    with pytest.raises(KilledError):
        fit("line", Rising(table), Points(), short_skd_recipe(), table, TrainingRun(tmp_path, 5, kill))
    with pytest.raises(InputError, match=RISE):
        fit("line", Rising(table), Points(), short_skd_recipe(), table, TrainingRun(tmp_path, 5))


KILLED_AT_STEP_7 = """
    import os, signal, sys
    from edge.cli.main import run_cli
    from trainer.training.monitor import LossMonitor

    finish_step = LossMonitor.on_train_batch_end

    def finish_step_or_die(self, trainer, *args):
        finish_step(self, trainer, *args)
        if self._stage == "network" and trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    LossMonitor.on_train_batch_end = finish_step_or_die
    sys.exit(run_cli(sys.argv[1:]))
"""


@pytest.mark.first
def test_run_killed_by_the_system_resumes_with_the_same_command(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    changes = set_options(SHORT_SKD | {"network.steps": "40"})
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    arguments = ["train", "demo", "--out", str(out), "--run", str(run), *changes, "--interval", "2"]
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED_AT_STEP_7))
    killed = subprocess.run([sys.executable, script, *arguments], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    checkpoint = run / "network" / "last.ckpt"
    stored_step = int(torch.load(checkpoint, weights_only=True)["global_step"])
    assert stored_step == 6
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    with (run / "network" / f"from-{stored_step:06d}" / "metrics.csv").open() as file:
        assert int(next(csv.DictReader(file))["step"]) >= stored_step
    assert load_student(out).name == "s"


@pytest.mark.parametrize("when", ["scenes render", "workers start", "steps run"])
@pytest.mark.first
def test_ctrl_c_ends_the_command_with_one_line(tmp_path: Path, when: str) -> None:
    no_stages = {"teachers.steps": "0", "students.steps": "0"}
    scenes = "900" if when == "scenes render" else "9"
    changes = SHORT_SKD | no_stages | {"network.steps": "5000", "workers": "1", "world.scenes": scenes}
    options = [*set_options(changes), "--pool", str(tmp_path / "pool")]
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    command = [sys.executable, "-m", "edge.cli.main", "train", "demo", "--out", str(out), "--run", str(run)]
    process = subprocess.Popen(
        [*command, "--interval", "1", *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signs = {
        "scenes render": tmp_path / "pool" / "shard-000000.npz",
        "workers start": run / "recipe.json",
        "steps run": run / "network" / "last.ckpt",
    }
    sign = signs[when]
    deadline = time.monotonic() + 200
    while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    *earlier, last = filter(None, err.splitlines())  # the terminal shows ^C on a line of its own
    assert last == "aerogaze: interrupted"
    if when == "steps run":
        assert "Ctrl-C: stopping after this step" in earlier
    expected = ("rendering ", "scenes: scene ", "network: step ", "Ctrl-C: ")
    assert all(line.startswith(expected) for line in earlier)
    assert not out.exists()


def test_interrupt_that_a_library_suppresses_still_ends_the_training(tmp_path: Path) -> None:
    steps = []

    def suppress_interrupt(progress: TrainingProgress) -> None:
        steps.append(progress.step)
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(
            "line",
            Line(TABLE),
            Points(),
            short_skd_recipe(),
            TABLE,
            TrainingRun(tmp_path, 5, suppress_interrupt),
        )
    assert steps == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_after_the_last_step_ends_the_training(tmp_path: Path) -> None:
    class InterruptedAtEnd(Line):
        def on_train_end(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit("line", InterruptedAtEnd(TABLE), Points(), short_skd_recipe(), TABLE, TrainingRun(tmp_path, 5))
    assert not (tmp_path / "line" / "done.pt").exists()


TWO_PROCESSES = """
    import os, sys, torch
    from pathlib import Path
    from edge.core.errors import InputError
    from tests.trainer.training.test_loop import TABLE, Line, Points
    from tests.support.training import short_skd_recipe
    from trainer.training.distributed import process_group
    from trainer.training.loop import TrainingRun, fit
    if __name__ == "__main__":
        folder, rank = Path(sys.argv[1]), process_group().rank
        line = Line(TABLE)
        fit("line", line, Points(), short_skd_recipe(), TABLE, TrainingRun(folder / "run", 10))
        torch.save(line.layer.state_dict(), folder / f"rank-{rank}.pt")

        def leave(progress):
            if rank == 1:
                os._exit(0)

        runs = {"start": TrainingRun(folder / f"run-{rank}"), "lost": TrainingRun(on_step=leave)}
        for name, run in runs.items():
            try:
                fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE, run)
            except InputError as error:
                (folder / f"{name}-{rank}").write_text(str(error))
"""


def run_two_processes(folder: Path) -> None:
    """Train in two processes: together, then from folders of which one has a checkpoint, then one ends."""

    def kill(progress: TrainingProgress) -> None:
        if progress.step == 7:
            raise KilledError

    run = TrainingRun(folder / "run-0", 5, kill)
    with pytest.raises(KilledError):
        fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE, run)
    script = folder / "two.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    # Not by torchrun: it ends the other process, too.
    launch = {
        "TORCHELASTIC_RUN_ID": "x",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_tcp_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    processes = []
    with contextlib.ExitStack() as stack:
        for rank in ("0", "1"):
            variables = {**os.environ, **launch, "RANK": rank, "LOCAL_RANK": rank}
            process = stack.enter_context(subprocess.Popen([sys.executable, script, folder], env=variables))
            stack.callback(process.kill)
            processes.append(process)
        assert [process.wait(300) for process in processes] == [0, 0]


@pytest.fixture(scope="module")
def two_processes(made_once: MadeOnce) -> Path:
    """Folder with what `run_two_processes` leaves."""
    return made_once("two-processes", run_two_processes)


@pytest.mark.first
def test_two_processes_train_the_weights_that_one_trains(two_processes: Path) -> None:
    single = Line(TABLE)
    fit("line", single, Points(), short_skd_recipe(), TABLE)
    ranks = [torch.load(two_processes / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in single.layer.state_dict().items():
        assert torch.equal(ranks[0][key], ranks[1][key])
        torch.testing.assert_close(ranks[0][key], value, atol=1e-5, rtol=1e-5)


def test_processes_that_do_not_share_the_folder_of_the_run_say_so(two_processes: Path) -> None:
    for rank, step in enumerate((5, 0)):
        message = (two_processes / f"start-{rank}").read_text()
        assert message.startswith("the processes do not share the run's folder: the first one is at step 5")
        assert f"this one at step {step} of line; name a folder with --run" in message


def test_process_that_lost_another_one_says_so(two_processes: Path) -> None:
    message = (two_processes / "lost-0").read_text()
    assert message.startswith("the connection to another process of this training was lost")


@pytest.mark.first
def test_command_trains_a_student_in_two_processes(tmp_path: Path) -> None:
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    arguments = ["train", "demo", "--out", str(out), "--run", str(run), *set_options(SHORT_SKD)]
    outcome = run_torchrun("--no-python", "--", sys.executable, "-m", "edge.cli.main", *arguments)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert outcome.stdout.count("wrote") == 1
    assert (tmp_path / "run" / "network" / "done.pt").is_file()
    assert load_student(tmp_path / "s.safetensors").name == "s"


def test_batch_that_cannot_be_divided_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="a batch of 8 cannot be divided among 3 processes"):
        fit("line", Line(TABLE), Points(), short_skd_recipe(), TABLE)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ProcessGroup(0, 1, 1)),
        (
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
            ProcessGroup(3, 4, 2),
        ),
        (
            {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"},
            ProcessGroup(5, 8, 4),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bash"}, ProcessGroup(0, 1, 1)),
    ],
)
def test_process_group_is_read_from_the_environment_of_the_launcher(
    environment: dict[str, str], expected: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    assert process_group() == expected


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, [7]),
        ({"OMP_NUM_THREADS": "3"}, []),
        ({**TORCHRUN, "OMP_NUM_THREADS": "1"}, [3]),
        ({**TORCHRUN, "OMP_NUM_THREADS": "2"}, []),
    ],
    ids=["alone", "chosen by the user", "chosen by torchrun", "chosen by the user of torchrun"],
)
def test_threads_are_a_share_of_the_cores_unless_the_user_chose_their_number(
    environment: dict[str, str], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(distributed, "detect_machine", lambda: SimpleNamespace(cores=8))
    monkeypatch.setattr(os, "environ", environment)
    share_cores(workers=1)
    assert taken == threads


def test_tasks_per_node_are_set_in_the_environment_for_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    srun = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "aerogaze"}
    monkeypatch.setattr(os, "environ", dict(srun))
    process_group()
    assert os.environ["SLURM_NTASKS_PER_NODE"] == "2"
    monkeypatch.setattr(os, "environ", srun | {"SLURM_NTASKS": "3"})
    with pytest.raises(
        InputError, match="srun started 3 tasks on 2 nodes; expected the same number on each node"
    ):
        process_group()
