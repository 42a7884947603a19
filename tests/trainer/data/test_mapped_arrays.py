"""Arrays of mapped files, and what is kept of a file that is written again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.core.atomic_files import atomic_file
from trainer.data.mapped_arrays import cached_per_file, map_arrays


def write(path: Path, values: list[int]) -> None:
    with atomic_file(path) as pending, pending.open("wb") as file:
        np.savez(file, values=np.array(values, np.int32), two=np.eye(2, dtype=np.float16))


def test_arrays_are_those_that_were_written(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", [3, 4, 5])
    arrays = map_arrays(tmp_path / "a.npz")
    assert arrays["values"].tolist() == [3, 4, 5]
    assert (arrays["two"] == np.eye(2)).all()
    assert arrays["two"].dtype == np.float16
    assert map_arrays(tmp_path / "a.npz") is arrays


def test_file_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, [3, 4, 5])
    before = map_arrays(path)["values"]
    write(path, [6, 7, 8])
    assert map_arrays(path)["values"].tolist() == [6, 7, 8]
    assert before.tolist() == [3, 4, 5]


def test_missing_file_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    read = cached_per_file(2)(Path.read_text)
    with pytest.raises(FileNotFoundError):
        read(path)
    path.write_text("there")
    assert read(path) == "there"
