"""Archives of the project, and virtual environments with its wheel, as on a drone or for a new user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def copy_source(folder: Path) -> Path:
    """Copy the project into a folder, so that the checkout stays clean, and return the copy."""
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv*",
        ".hypothesis",
        ".*_cache",
        "out",
        "build",
        "dist",
        "shared",
        "*.egg-info",
        "__pycache__",
    )
    return Path(shutil.copytree(ROOT, folder / "source", ignore=ignored))


def build_archives(source: Path, folder: Path, umask: int = 0o022) -> tuple[Path, Path]:
    """Build the wheel and the source archive as `make dist` does, and return both."""
    command = [sys.executable, str(source / ".ci/dist.py"), str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    result = subprocess.run(command, env=environment, umask=umask, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return find_archives(folder)


def find_archives(folder: Path) -> tuple[Path, Path]:
    """Return the wheel and the source archive of a folder."""
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


def make_environment(python: str, folder: Path, *packages: str) -> Path:
    """Make a virtual environment with packages, and return its `bin` folder.

    The pip of this environment installs the packages and compiles none of them: pip takes longer to install
    itself and to compile all modules than the tests take to compile those that they import.
    """
    run(python, "-m", "venv", "--without-pip", str(folder))
    programs = folder / "bin"
    install_packages(programs, *packages)
    return programs


def install_packages(programs: Path, *packages: str) -> None:
    """Install packages into the environment with this `bin` folder."""
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    run(*pip, "install", "--quiet", "--no-compile", *constraints, *packages)


def installed_packages(programs: Path) -> set[str]:
    """Return the names of the packages of an environment, in small letters."""
    code = "from importlib.metadata import distributions as d; print(*{p.name.lower() for p in d()})"
    return set(run(str(programs / "python"), "-c", code).split())


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command without the Python settings of this environment, and return its output."""
    python_settings = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in python_settings}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout
