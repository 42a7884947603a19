from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.atomic_files import PendingFile, PendingFolder, atomic_file, atomic_folder, cache_folder
from edge.core.errors import InputError


def _is_png(entry: Path) -> bool:
    return entry.suffix == ".png"


def test_atomic_file_replaces_target_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with atomic_file(target) as path:
        path.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(InputError), atomic_file(target) as path:
        path.rename(tmp_path / "stolen")
    (tmp_path / "stolen").unlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_folder_replaces_own_older_folder(tmp_path: Path) -> None:
    target = tmp_path / "maps"
    for names in (["1.png", "2.png"], ["3.png"]):
        with atomic_folder(target, _is_png) as path:
            for name in names:
                (path / name).touch()
    assert [entry.name for entry in target.iterdir()] == ["3.png"]
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_rejects_and_keeps_folder_with_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(InputError, match=r"holds thesis\.docx"), atomic_folder(tmp_path, _is_png):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("target", ["file/below", "/proc/here"])
def test_unwritable_target_raises_input_error(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), atomic_file(tmp_path / target):
        pass
    with pytest.raises(InputError, match="cannot write"), atomic_folder(tmp_path / target, _is_png):
        pass


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link", _is_png) as path:
        (path / "1.png").touch()
    with atomic_file(tmp_path / "link" / "a.txt") as path:
        path.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert sorted(entry.name for entry in (tmp_path / "real").iterdir()) == ["1.png", "a.txt"]


def test_commit_keeps_file_that_appeared_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "maps"
    target.mkdir()
    pending = PendingFolder(target, _is_png)
    (target / "thesis.docx").touch()
    with pytest.raises(InputError, match=r"holds thesis\.docx"):
        pending.commit()
    pending.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["maps"]
    assert [entry.name for entry in target.iterdir()] == ["thesis.docx"]


def test_devices_and_mount_points_are_rejected() -> None:
    with pytest.raises(InputError, match="folder or device"):
        PendingFile(Path("/dev/null"))
    with pytest.raises(InputError, match="mount point"):
        PendingFolder(Path("/proc"), _is_png)


def test_file_name_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not UTF-8"):
        PendingFile(tmp_path / "b\udcff.mp4")


def test_cache_folder_follows_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("AEROGAZE_CACHE", raising=False)
    assert cache_folder() == Path("/x/aerogaze")
    monkeypatch.setenv("AEROGAZE_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_discard_removes_created_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    PendingFile(tmp_path / "there" / "a" / "b" / "c.txt").discard()
    PendingFolder(tmp_path / "there" / "a" / "b", _is_png).discard()
    assert list((tmp_path / "there").iterdir()) == []
    pending = PendingFile(tmp_path / "a" / "b" / "c.txt")
    (tmp_path / "a" / "other.txt").touch()
    pending.discard()
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "other.txt"]
