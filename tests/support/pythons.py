"""Virtual environments with the project's wheel, as on a drone or for a new user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel into a folder, from a copy, so that the checkout stays clean."""
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(python: str, folder: Path, *packages: str) -> Path:
    """Make a virtual environment with packages, and return its `bin` folder."""
    run(python, "-m", "venv", str(folder))
    programs = folder / "bin"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    run(str(programs / "pip"), "install", "--quiet", *constraints, *packages)
    return programs


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command without the Python settings of this environment, and return its output."""
    python_settings = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in python_settings}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout
