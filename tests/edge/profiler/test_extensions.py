from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.profiler import extensions
from edge.profiler.extensions import ENTRY_POINT_GROUP, load_candidate_source


def register(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Let the installation have the entry point `torch` with this value, or none."""
    entries = [EntryPoint("torch", value, ENTRY_POINT_GROUP) for value in values]
    monkeypatch.setattr(extensions, "entry_points", lambda group, name: entries)


def test_trainer_registers_its_candidates() -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'aerogaze[train]'")
    from trainer.inference.torch_runner import torch_candidates

    assert load_candidate_source("torch") is torch_candidates


def test_source_that_is_not_registered_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    with pytest.raises(InputError, match=r"^--torch needs the trainer.*: pip install 'aerogaze\[train\]'$"):
        load_candidate_source("torch")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "no_such_package.runner:candidates")
    message = r"^--torch needs no_such_package, which is not installed: pip install 'aerogaze\[train\]'$"
    with pytest.raises(InputError, match=message):
        load_candidate_source("torch")


def test_fault_inside_the_package_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "faulty_runner"
    package.mkdir()
    (package / "__init__.py").write_text("import faulty_runner.missing\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    register(monkeypatch, "faulty_runner:candidates")
    with pytest.raises(ModuleNotFoundError, match=r"faulty_runner\.missing"):
        load_candidate_source("torch")
