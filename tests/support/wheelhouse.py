"""Wheels: whether an index can be reached, and a runtime of stubs that needs none."""

from __future__ import annotations

import ensurepip
import functools
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from sysconfig import get_config_var

import pytest

from jetson.wheels.install_runtime import detect_platform
from jetson.wheels.self_wheel import WHEEL_FILE, build_record, zip_files
from jetson.wheels.wheel_set import INSTALLER, REQUIREMENTS

STUB = """
import sys
def main():
    if sys.argv[1:] == ["--version"]:
        print("aerogaze {version}")
    elif sys.argv[1:3] == ["device", "disarmed"] and {armed}:
        sys.exit("aerogaze: the drone is armed")
"""


@functools.cache
def is_index_reachable() -> bool:
    """Say whether pip can download a small wheel."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "0", "--no-deps", "mdurl"]
        return not subprocess.run([*words, "--dest", folder], capture_output=True).returncode


def stub_wheels(
    folder: Path, version: str = "1.0", armed: bool = False, whole: bool = True, machine: str | None = None
) -> Path:
    """Make a folder as `aerogaze wheels` does, of a runtime that imports and does nothing."""
    bundled = Path(ensurepip.__file__).parent / "_bundled", Path(get_config_var("WHEEL_PKG_DIR") or "/none")
    pips = [wheel for place in bundled for wheel in place.glob("pip-*.whl")][:1]
    if not pips:
        pytest.skip("this Python came without a wheel of pip")
    info = f"aerogaze-{version}.dist-info"
    modules = {f"{name}.py": b"" for name in ("cv2", "numpy", "onnxruntime")}
    files = {
        **(modules if whole else {}),
        "jetson/cli/device.py": b"",
        "stub.py": STUB.format(version=version, armed=armed).encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: aerogaze\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": WHEEL_FILE.encode(),
        f"{info}/entry_points.txt": b"[console_scripts]\naerogaze = stub:main\n",
    }
    files[f"{info}/RECORD"] = build_record(files, f"{info}/RECORD")
    folder.mkdir(parents=True)
    (folder / f"aerogaze-{version}-py3-none-any.whl").write_bytes(data := zip_files(files))
    for wheel in pips:
        shutil.copy(wheel, folder)
    shutil.copy(INSTALLER, folder)
    digest = hashlib.sha256(data).hexdigest()
    lines = f"aerogaze=={version} --hash=sha256:{digest}\n"
    for wheel in pips:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines += f"pip=={wheel.name.split('-')[1]} --hash=sha256:{digest}\n"
    (folder / REQUIREMENTS).write_text(
        f"# machine {machine or detect_platform()}\n# unpacked 9 bytes\n{lines}"
    )
    return folder


def make(wheels: Path, place: Path, *questions: str) -> tuple[int, bool, str]:
    """Run the board's script; return its exit code, whether it changed anything, and what it said."""
    words = [sys.executable, str(wheels / INSTALLER.name), str(place), "--", *questions]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, bool(done.stdout) and json.loads(done.stdout)["changed"], done.stderr
