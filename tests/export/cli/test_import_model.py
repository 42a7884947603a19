"""`aerogaze import`: a student with a card from a published checkpoint, refused files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.support.published_tinyhd import write_checkpoint
from trainer.models.student import TinyHDSettings, load_student
from trainer.models.tinyhd import TinyHD

Command = Callable[..., Outcome]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_checkpoint(tmp_path / "d123m_rc8.pth", TinyHD("M", 8), ["D1", "D2", "D3"])


def test_imported_checkpoint_becomes_a_student_with_a_card(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tinyhd-m.safetensors"
    outcome = command(
        "import", checkpoint, "--kind", "tinyhd", "--out", out, "--size", "96x64", "--licence", "none"
    )
    assert outcome.code == 0, outcome.err
    assert "tinyhd-m: TinyHD-M, rc 8, decoders D1, D2, D3, 798,005 parameters; licence: none" in outcome.out
    assert f"next: aerogaze export {out}" in outcome.out
    student = load_student(out)
    assert student.settings == TinyHDSettings("M", 8, height=64, width=96)
    card = student.trained["imported"]
    assert card["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (card["file"], card["kind"], card["licence"]) == ("d123m_rc8.pth", "tinyhd", "none")
    assert card["source"] == "not stated"
    assert card["preprocessing"]["width"] == 96


def test_student_without_an_ending_gets_one(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "tinyhd-m"
    assert command("import", checkpoint, "--kind", "tinyhd", "--out", out, "--size", "32x32").code == 0
    assert load_student(out.with_suffix(".safetensors")).name == "tinyhd-m"


def test_imported_student_is_scored(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "tinyhd-m.safetensors"
    assert command("import", checkpoint, "--kind", "tinyhd", "--out", out, "--size", "32x32").code == 0
    root = trees.write_ucf_sports(tmp_path / "data", clips=1, frames=16)
    outcome = command("evaluate", out, "--dataset", "ucf-sports", "--root", root)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text.pth", "--out", "s.safetensors"), "is not a state dict of tensors"),
        (("none.pth", "--out", "s.safetensors"), "no file"),
        (("d123m_rc8.pth", "--out", "s.onnx"), "expected a name ending in .safetensors"),
        (("d123m_rc8.pth", "--out", "s.safetensors", "--size", "100x64"), "expected multiples of 32"),
    ],
)
def test_what_cannot_be_imported_is_reported_in_one_line(
    command: Command,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([1], "text.pth")
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = command("import", *arguments, "--kind", "tinyhd")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
