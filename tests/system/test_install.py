"""Archives of a release, and the wheel as a drone installs it: without torch, on the Python of the boards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import find_python
from tests.support.made_once import MadeOnce
from tests.support.pages import run_page
from tests.support.pythons import (
    ROOT,
    build_archives,
    copy_source,
    find_archives,
    install_packages,
    installed_packages,
    make_environment,
    run,
)

IN_ONE_ENVIRONMENT = pytest.mark.xdist_group("drone")
"""Marks the tests that use `drone`, so that one worker makes that environment, once."""


@pytest.fixture(scope="session")
def source(made_once: MadeOnce) -> Path:
    return made_once("source", copy_source) / "source"


@pytest.fixture(scope="session")
def archives(source: Path, made_once: MadeOnce) -> tuple[Path, Path]:
    return find_archives(made_once("archives", lambda folder: build_archives(source, folder)))


@pytest.fixture(scope="session")
def wheel(archives: tuple[Path, Path]) -> Path:
    return archives[0]


@pytest.fixture(scope="session")
def drone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a clean environment with the wheel and what it requires."""
    return make_environment(sys.executable, tmp_path_factory.mktemp("environment") / "drone", str(wheel))


def test_archives_are_the_same_to_the_byte_when_they_are_built_again(
    source: Path, archives: tuple[Path, Path], tmp_path: Path
) -> None:
    again = build_archives(source, tmp_path, umask=0o077)
    for first, second in zip(archives, again, strict=True):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()


def test_metadata_passes_the_strict_check_of_twine(archives: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_source_archive_holds_what_the_project_is_built_and_tested_with(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        ".ci/run", "CHANGELOG.md", "Makefile", "constraints.txt", "docs/index.md", "docs/images/overlay.jpg",
        "edge/api.py", "mkdocs.yml", "tests/conftest.py", "jetson/constraints.txt",
    ):  # fmt: skip
        assert needed in names


def test_wheel_holds_the_packages_and_their_data_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"edge", "export", "calibration", "trainer", "jetson"}
    for needed in (
        "edge/py.typed",
        "edge/sinks/web/page.html",
        "edge/sinks/web/token.html",
        "edge/release/shipped/skd-64/release.json",
        "edge/release/shipped/skd-64/stream.int8.onnxruntime.onnx",
        "trainer/recipes/shipped/skd-64.toml",
        "trainer/students/skd-64.safetensors",
        "export/cli/demo_report.html",
        "jetson/py.typed",
    ):
        assert needed in names


@IN_ONE_ENVIRONMENT
def test_quickstart_of_the_readme_works_from_the_wheel(drone: Path, tmp_path: Path) -> None:
    run_page(ROOT / "README.md", tmp_path, long=False, programs=drone)
    assert (tmp_path / "saliency.mp4").stat().st_size > 10_000
    assert len((tmp_path / "saliency.jsonl").read_text().splitlines()) == 60


@IN_ONE_ENVIRONMENT
def test_run_and_profile_work_without_torch(drone: Path, video: Path, tmp_path: Path) -> None:
    assert not installed_packages(drone) & {"torch", "onnx", "lightning", "pydantic", "matplotlib"}
    aerogaze = str(drone / "aerogaze")
    summary = run(aerogaze, "run", str(video), "--maps", "maps", "--jsonl", "o.jsonl", "--json", cwd=tmp_path)
    assert json.loads(summary)["frames"] == len(list((tmp_path / "maps").iterdir())) == 12
    assert "fp32" in run(aerogaze, "profile", cwd=tmp_path)


@IN_ONE_ENVIRONMENT
def test_missing_extra_is_named_with_the_remedy(drone: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from edge.cli.main import run_cli; sys.stderr = sys.stdout; "
        "print(run_cli(['train', 'demo', '--out', 'x.safetensors']))"
    )
    output = run(str(drone / "python"), "-c", code, cwd=tmp_path)
    assert "which is not installed: pip install 'aerogaze[train]'" in output
    assert output.splitlines()[-1] == "2"


@pytest.mark.first
@pytest.mark.parametrize(
    "version",  # of JetPack 6; those of JetPack 7 and the newest take as long and seldom differ
    ["3.10", pytest.param("3.12", marks=pytest.mark.long), pytest.param("3.13", marks=pytest.mark.long)],
)
def test_tests_pass_on_the_python_of_a_board(wheel: Path, source: Path, tmp_path: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    programs = make_environment(python, tmp_path / "drone", str(wheel), "pytest", "hypothesis")
    for name in ("edge", "jetson", "support"):
        shutil.copytree(source / "tests" / name, tmp_path / "tests" / name)
    for name in ("__init__.py", "conftest.py"):
        shutil.copy(source / "tests" / name, tmp_path / "tests" / name)
    (tmp_path / "docs").symlink_to(source / "docs")
    assert_tests_pass(programs, tmp_path, "edge")
    install_packages(programs, f"{wheel}[jetson]")
    assert_tests_pass(programs, tmp_path, "jetson")
    assert not installed_packages(programs) & {"torch", "onnx"}


def assert_tests_pass(programs: Path, folder: Path, package: str) -> None:
    """Assert that the tests of a package, which lie in `folder`, pass in an environment."""
    output = run(
        str(programs / "python"), "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider",
        "-W", "ignore::pytest.PytestUnknownMarkWarning", "-m", "not long and not any_python",
        "-k", "not every_command_has_help", f"tests/{package}",
        cwd=folder,
    )  # fmt: skip
    assert " passed" in output
    assert " failed" not in output
