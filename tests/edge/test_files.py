from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import InputError
from edge.files import written_file, written_folder


def _png(entry: Path) -> bool:
    return entry.suffix == ".png"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with written_file(target) as path:
        path.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(InputError), written_file(target) as path:
        path.rename(tmp_path / "stolen")
    (tmp_path / "stolen").unlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "maps"
    for names in (["1.png", "2.png"], ["3.png"]):
        with written_folder(target, _png) as path:
            for name in names:
                (path / name).touch()
    assert [entry.name for entry in target.iterdir()] == ["3.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(InputError, match=r"holds thesis\.docx"), written_folder(tmp_path, _png):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("place", ["file/below", "/proc/here"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), written_file(tmp_path / place):
        pass
    with pytest.raises(InputError, match="cannot write"), written_folder(tmp_path / place, _png):
        pass
