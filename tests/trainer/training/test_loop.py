"""Runs that are killed and gone on with, that are shared by processes, that go wrong."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.trainer.training.test_skd import QUICK, quick
from trainer.models.student import load_student
from trainer.recipes.loader import SkdRecipe, StageTable
from trainer.training.distributed import ProcessGroup, process_group
from trainer.training.loop import TrainingRun, fit
from trainer.training.monitor import TrainingProgress
from trainer.training.run import train
from trainer.training.stage import Batch, TrainingStage


class Points(Dataset[dict[str, Tensor]]):
    """Points on a line to fit."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.tensor([index / 20 - 1, 1.0])
        return {"x": x, "y": x @ torch.tensor([3.0, -2.0])}


class Line(TrainingStage):
    """A linear network without batch statistics: two processes must find what one finds."""

    def __init__(self, table: StageTable) -> None:
        super().__init__(table)
        self.layer = nn.Linear(2, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.seen: list[float] = []

    def loss(self, batch: Batch) -> Tensor:
        self.seen += batch["x"][:, 0].tolist()
        error = self.layer(batch["x"])[:, 0] - batch["y"]
        return torch.mean(error * error)


TABLE = StageTable(steps=30, batch=8, rate=0.05, schedule="cosine", average=0.5)


def recipe() -> SkdRecipe:
    return quick()


def test_each_epoch_has_every_sample_once() -> None:
    line = Line(TABLE)
    fit("line", line, Points(), recipe(), TABLE)
    epochs = [sorted(line.seen[at : at + 40]) for at in range(0, 240, 40)]
    assert all(epoch == epochs[0] and len(set(epoch)) == 40 for epoch in epochs)
    assert line.seen[:40] != line.seen[40:80]


class KilledError(Exception):
    """As by the system, between two steps."""


@pytest.mark.parametrize("killed_at", [1, 7, 10, 29])
def test_a_killed_run_goes_on_and_ends_where_the_whole_one_does(tmp_path: Path, killed_at: int) -> None:
    def killer(progress: TrainingProgress) -> None:
        if progress.step == killed_at:
            raise KilledError

    whole = Line(TABLE)
    fit("line", whole, Points(), recipe(), TABLE)
    with pytest.raises(KilledError):
        fit("line", Line(TABLE), Points(), recipe(), TABLE, TrainingRun(tmp_path, 5, killer))
    steps: list[int] = []
    resumed = Line(TABLE)
    fit("line", resumed, Points(), recipe(), TABLE, TrainingRun(tmp_path, 5, lambda p: steps.append(p.step)))
    assert steps == list(range((killed_at - 1) // 5 * 5 + 1, 31)) or steps[0] == killed_at + 1
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value)
    again = Line(TABLE)
    fit("line", again, Points(), recipe(), TABLE, TrainingRun(tmp_path, 5, killer))  # done: nothing runs
    torch.testing.assert_close(again.layer.weight, whole.layer.weight)


def test_a_stage_that_was_finished_is_not_trained_again(tmp_path: Path) -> None:
    stages: list[str] = []
    first = train(quick(), TrainingRun(tmp_path, on_step=lambda p: stages.append(p.stage)))
    assert stages.count("network") == 3
    second = train(quick(), TrainingRun(tmp_path, on_step=lambda p: stages.append(p.stage)))
    assert stages.count("network") == 3
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value)
    with pytest.raises(InputError, match="training of another recipe"):
        train(quick(seed="5"), TrainingRun(tmp_path))


def test_a_checkpoint_that_is_spoilt_is_named(tmp_path: Path) -> None:
    (tmp_path / "line").mkdir()
    (tmp_path / "line" / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="remove it to start the stage again"):
        fit("line", Line(TABLE), Points(), recipe(), TABLE, TrainingRun(tmp_path))


class Rising(Line):
    def loss(self, batch: Batch) -> Tensor:
        raised: Tensor = 0 * self.layer(batch["x"]).mean() + 1 + self.global_step / 20
        return raised


RISE = r"line: the loss rose to .* from .* at the start"


class RisingFromBelow(Rising):
    """As NSS does, which is better the lower it is."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) - 3


@pytest.mark.parametrize("kind", [Rising, RisingFromBelow])
def test_a_loss_that_rises_ends_the_run(kind: type[Rising]) -> None:
    table = StageTable(steps=400, batch=8)
    with pytest.raises(InputError, match=RISE):
        fit("line", kind(table), Points(), recipe(), table)


def test_weights_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    class Broken(Line):
        def loss(self, batch: Batch) -> Tensor:
            self.layer.weight.data[0, 0] = float("nan")  # as a wrong gradient does, in a place no loss sees
            return self.layer.bias.square().mean()

    with pytest.raises(InputError, match=r"line: layer.weight is not finite after 30 steps"):
        fit("line", Broken(TABLE), Points(), recipe(), TABLE, TrainingRun(tmp_path))
    assert not (tmp_path / "line" / "done.pt").exists()


def test_a_run_that_goes_on_knows_how_its_loss_began(tmp_path: Path) -> None:
    def killer(progress: TrainingProgress) -> None:
        if progress.step == 45:
            raise KilledError

    table = StageTable(steps=100, batch=8)
    with pytest.raises(KilledError):
        fit("line", Rising(table), Points(), recipe(), table, TrainingRun(tmp_path, 5, killer))
    with pytest.raises(InputError, match=RISE):
        fit("line", Rising(table), Points(), recipe(), table, TrainingRun(tmp_path, 5))


def test_a_run_killed_outright_goes_on_by_the_same_command(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    changes = [w for k, v in (QUICK | {"network.steps": "40"}).items() for w in ("--set", f"{k}={v}")]
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    words = ["train", "demo", "--out", str(out), "--run", str(run), *changes]
    words += ["--interval", "2"]
    process = subprocess.Popen([sys.executable, "-m", "edge.cli.main", *map(str, words)])
    checkpoint, until = tmp_path / "run" / "network" / "last.ckpt", time.monotonic() + 300
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    begun = int(torch.load(checkpoint, weights_only=False)["global_step"])
    assert 0 < begun < 40
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    with (tmp_path / "run" / "network" / f"from-{begun:06d}" / "metrics.csv").open() as file:
        assert int(next(csv.DictReader(file))["step"]) >= begun
    assert load_student(tmp_path / "s.safetensors").name == "demo-32"


@pytest.mark.parametrize("when", ["workers start", "steps run"])
def test_ctrl_c_ends_it_with_one_line(tmp_path: Path, when: str) -> None:
    changes = QUICK | {"network.steps": "5000", "teachers.steps": "0", "students.steps": "0", "workers": "1"}
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    command = [sys.executable, "-m", "edge.cli.main", "train", "demo", "--out", str(out), "--run", str(run)]
    process = subprocess.Popen(
        [*command, "--interval", "1", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    mark = run / "recipe.json" if when == "workers start" else run / "network" / "last.ckpt"
    until = time.monotonic() + 200
    while not mark.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 130, told
    assert told.strip() == "aerogaze: interrupted"  # after the terminal's ^C
    assert not out.exists()


def test_an_interrupt_that_a_library_swallows_ends_it_all_the_same(tmp_path: Path) -> None:
    told = []

    def careless(progress: TrainingProgress) -> None:
        told.append(progress.step)
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit("line", Line(TABLE), Points(), recipe(), TABLE, TrainingRun(tmp_path, 5, careless))
    assert told == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_after_the_last_step_ends_it_too(tmp_path: Path) -> None:
    class Late(Line):
        def on_train_end(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit("line", Late(TABLE), Points(), recipe(), TABLE, TrainingRun(tmp_path, 5))
    assert not (tmp_path / "line" / "done.pt").exists()


TWO = """
    import sys, torch
    from pathlib import Path
    from tests.trainer.training.test_loop import TABLE, Line, Points, recipe
    from trainer.training.distributed import process_group
    from trainer.training.loop import TrainingRun, fit
    if __name__ == "__main__":
        line = Line(TABLE)
        fit("line", line, Points(), recipe(), TABLE, TrainingRun(Path(sys.argv[1]), 10))
        torch.save(line.layer.state_dict(), f"{sys.argv[1]}/rank-{process_group().rank}.pt")
"""


def torchrun(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO))
    done = torchrun(script, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    one = Line(TABLE)
    fit("line", one, Points(), recipe(), TABLE)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in one.layer.state_dict().items():
        assert torch.equal(ranks[0][key], ranks[1][key])
        torch.testing.assert_close(ranks[0][key], value, atol=1e-5, rtol=1e-5)


def test_two_processes_train_a_student_by_the_command(tmp_path: Path) -> None:
    changes = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    out, run = tmp_path / "s.safetensors", tmp_path / "run"
    words = ["train", "demo", "--out", str(out), "--run", str(run), *changes]
    done = torchrun("--no-python", "--", sys.executable, "-m", "edge.cli.main", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1
    assert (tmp_path / "run" / "network" / "done.pt").is_file()
    assert load_student(tmp_path / "s.safetensors").name == "demo-32"


def test_a_batch_that_cannot_be_shared_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="a batch of 8 cannot be divided among 3 processes"):
        fit("line", Line(TABLE), Points(), recipe(), TABLE)


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
def test_the_team_is_read_from_what_started_it(
    environment: dict[str, str], expected: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, **environment})
    assert process_group() == expected


def test_lightning_is_told_how_many_tasks_a_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    srun = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "aerogaze"}
    monkeypatch.setattr(os, "environ", dict(srun))
    process_group()
    assert os.environ["SLURM_NTASKS_PER_NODE"] == "2"
    monkeypatch.setattr(os, "environ", srun | {"SLURM_NTASKS": "3"})
    with pytest.raises(InputError, match="srun started 3 tasks on 2 nodes; expected the same number on each node"):
        process_group()
