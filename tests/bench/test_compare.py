"""Comparison of two commits of a small repository, whose speed is a number in a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from edge.core.errors import InputError
from tests.bench.compare.comparison import Difference, compare_commits
from tests.bench.compare.worktrees import ROOT, check_out, uncommitted_files
from tests.bench.measurement.row import Benchmark
from tests.bench.measurement.session import Plan

THEMES = """
import os
from contextlib import contextmanager
from tests.bench.measurement.row import Benchmark, Contestant

@contextmanager
def open_speed(folder):
    from edge import speed
    contestants = {"run": Contestant(lambda calls: speed.SECONDS)}
    if speed.STARTS:
        contestants["start"] = Contestant(lambda calls: 0.1)
    yield contestants

@contextmanager
def open_death(folder):
    from edge import speed
    def die(calls):
        if speed.SECONDS > 2:
            print("out of memory", flush=True)
            os.kill(os.getpid(), 9)
        return 1.0
    yield {"call": Contestant(die)}

def load_benchmarks(theme):
    return (Benchmark("death", 10, (), open_death), Benchmark("speed", 10, (), open_speed))
"""
COMMITS = {
    "base": "SECONDS, STARTS = 1.0, True",
    "slow": "SECONDS, STARTS = 1.05, True",
    "close": "SECONDS, STARTS = 1.005, True",
    "fast": "SECONDS, STARTS = 0.5, True",
    "one": "SECONDS, STARTS = 1.0, False",
    "dies": "SECONDS, STARTS = 3.0, True",
    "lacks": None,
}


def _open_nowhere(_folder: Path) -> None:
    raise AssertionError("the comparison opens benchmarks in its workers")


PLAN: Plan = {"theme": [Benchmark(name, 100, (), _open_nowhere) for name in ("death", "speed")]}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a commit per tag, whose benchmarks read `edge/speed.py`."""
    root = tmp_path_factory.mktemp("repository")
    git = ["git", "-C", str(root), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)  # noqa: S607
    (root / "edge/core").mkdir(parents=True)
    (root / "edge/__init__.py").touch()
    (root / "tests/support").mkdir(parents=True)
    (root / "tests/__init__.py").touch()
    shutil.copytree(
        ROOT / "tests/bench", root / "tests/bench", ignore=shutil.ignore_patterns("test_*", "__py*")
    )
    (root / "tests/bench/themes.py").write_text(THEMES)
    for tag, text in COMMITS.items():
        speed = root / "edge/speed.py"
        speed.write_text(text) if text else speed.unlink()
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", tag], check=True)
        subprocess.run([*git, "tag", tag], check=True)
    return root


def _worktrees(repository: Path) -> int:
    words = ["git", "-C", str(repository), "worktree", "list"]
    return len(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.parametrize(
    ("commit", "line", "code"),
    [
        ("slow", "run: slower, B takes 1.050 (1.050 to 1.050) times A's", 1),
        ("close", "run: the same within 2%, B takes 1.005 (1.005 to 1.005) times A's", 0),
        ("fast", "run: faster, B takes 0.500 (0.500 to 0.500) times A's", 0),
    ],
)
def test_change_of_a_commit_is_found(
    repository: Path, capsys: pytest.CaptureFixture[str], commit: str, line: str, code: int
) -> None:
    assert compare_commits("base", commit, {"theme": PLAN["theme"][1:]}, 0.02, repository) == code
    out = capsys.readouterr().out
    assert f"  {line}\n" in out
    assert "  start: the same within 2%" in out
    assert _worktrees(repository) == 1


def test_what_one_commit_lacks_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_commits("base", "lacks", PLAN, 0.02, repository) == 0
    assert "  not in B: ImportError: cannot import name 'speed' from 'edge'" in capsys.readouterr().out
    assert compare_commits("base", "one", PLAN, 0.02, repository) == 0
    assert "  start: not in B\n" in capsys.readouterr().out


def test_worker_that_dies_spoils_one_benchmark_and_the_exit_code(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_commits("dies", "base", PLAN, 0.02, repository) == 2
    out = capsys.readouterr().out
    assert "(dies) was ended by SIGKILL: out of memory\n" in out
    assert "run: faster" in out
    assert out.endswith("workers that ended: 1\n")
    assert _worktrees(repository) == 1


def test_unknown_commit_is_an_error_in_one_line(repository: Path) -> None:
    with pytest.raises(InputError, match=r"^v9 is no commit; expected a hash, branch or tag, "):
        compare_commits("base", "v9", PLAN, 0.02, repository)


def test_changes_in_no_commit_are_mentioned(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository / "tests/__init__.py"
    path.write_text("# changed\n")
    try:
        assert uncommitted_files(repository) == ["tests/__init__.py"]
        compare_commits("base", "close", {}, 0.02, repository)
    finally:
        path.write_text("")
    note = "note: changes that are in no commit are not measured: tests/__init__.py\n"
    assert capsys.readouterr().out.startswith(note)


def test_worktrees_are_removed_after_an_interruption(repository: Path) -> None:
    folders: list[Path] = []

    def be_interrupted() -> None:
        with check_out(["base", "slow"], repository) as checkouts:
            folders.extend(checkout.folder for checkout in checkouts)
            assert all((folder / "edge").is_dir() for folder in folders)
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert not any(folder.exists() for folder in folders)
    assert _worktrees(repository) == 1


def test_difference_is_undecided_as_long_as_its_interval_reaches_over_the_margin() -> None:
    assert Difference(1.05, 1.01, 1.09).answer(0.02) == "undecided"
    assert Difference(1.05, 1.03, 1.07).answer(0.02) == "slower"
    assert Difference(0.95, 0.93, 0.97).answer(0.02) == "faster"
    assert Difference(1.00, 0.99, 1.01).answer(0.02) == "the same"
