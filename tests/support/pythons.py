"""Environments of their own, as a drone or a new user has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel into `folder`, from a copy, so that the checkout stays clean."""
    source = folder / "source"
    hidden = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=hidden)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(python: str, folder: Path, *packages: str) -> Path:
    """Make a virtual environment with `packages`; return its folder of programs."""
    run(python, "-m", "venv", str(folder))
    programs = folder / "bin"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    run(str(programs / "pip"), "install", "--quiet", *constraints, *packages)
    return programs


def run(*words: str, cwd: Path | None = None) -> str:
    """Run a command with no trace of this environment; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout
