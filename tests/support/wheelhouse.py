"""Folders of wheels: whether a package index can be reached, and stub runtimes that need none."""

from __future__ import annotations

import compileall
import ensurepip
import functools
import hashlib
import json
import py_compile
import shutil
import subprocess
import sys
import tempfile
import zipfile
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

WITHOUT_SYNC = """
import os, runpy, sys
os.sync = lambda: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script without writing all disks of this machine, which would wait for what other tests write."""


@functools.cache
def is_index_reachable() -> bool:
    """Return whether pip can download a small wheel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "0", "--no-deps", "mdurl"]
        return not subprocess.run([*command, "--dest", folder], capture_output=True).returncode


@functools.cache
def with_bytecode(wheel: Path) -> bytes:
    """Return a wheel with bytecode in it: a program that runs from a wheel else compiles itself each time."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, legacy=True, invalidation_mode=mode)
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return zip_files({str(path.relative_to(folder)): path.read_bytes() for path in files})


def make_stub_wheels(
    folder: Path,
    version: str = "1.0",
    armed: bool = False,
    is_complete: bool = True,
    platform: str | None = None,
    installs_pip: bool = False,
) -> Path:
    """Make a folder as `aerogaze wheels` does, of a runtime that starts and does nothing.

    Args:
        folder: Folder to make.
        version: Version of the stub.
        armed: `aerogaze device disarmed` reports armed.
        is_complete: The runtime has all packages that it must be able to import.
        platform: Platform in requirements.txt; None for this one.
        installs_pip: The runtime has pip, as that of `aerogaze wheels` has. It takes longer to install.
    """
    wheel_folders = (
        Path(ensurepip.__file__).parent / "_bundled",
        Path(get_config_var("WHEEL_PKG_DIR") or "/none"),
    )
    pip_wheels = [wheel for wheel_folder in wheel_folders for wheel in wheel_folder.glob("pip-*.whl")][:1]
    if not pip_wheels:
        pytest.skip("this Python came without a wheel of pip")
    info_folder = f"aerogaze-{version}.dist-info"
    modules = {f"{name}.py": b"" for name in ("cv2", "numpy", "onnxruntime")}
    files = {
        **(modules if is_complete else {}),
        "jetson/cli/device.py": b"",
        "stub.py": STUB.format(version=version, armed=armed).encode(),
        f"{info_folder}/METADATA": f"Metadata-Version: 2.1\nName: aerogaze\nVersion: {version}\n".encode(),
        f"{info_folder}/WHEEL": WHEEL_FILE.encode(),
        f"{info_folder}/entry_points.txt": b"[console_scripts]\naerogaze = stub:main\n",
    }
    files[f"{info_folder}/RECORD"] = build_record(files, f"{info_folder}/RECORD")
    folder.mkdir(parents=True)
    (folder / f"aerogaze-{version}-py3-none-any.whl").write_bytes(data := zip_files(files))
    pip_data = {
        wheel.name: wheel.read_bytes() if installs_pip else with_bytecode(wheel) for wheel in pip_wheels
    }
    for name, content in pip_data.items():
        (folder / name).write_bytes(content)
    shutil.copy(INSTALLER, folder)
    digest = hashlib.sha256(data).hexdigest()
    lines = f"aerogaze=={version} --hash=sha256:{digest}\n"
    for name, content in pip_data.items():
        digest = hashlib.sha256(content).hexdigest()
        requirement = f"pip=={name.split('-')[1]}" if installs_pip else "# the wheel of pip has"
        lines += f"{requirement} --hash=sha256:{digest}\n"
    (folder / REQUIREMENTS).write_text(
        f"# machine {platform or detect_platform()}\n# unpacked 9 bytes\n{lines}"
    )
    return folder


def run_installer(wheels: Path, link: Path, *disarm_options: str) -> tuple[int, bool, str]:
    """Run the installer of a folder of wheels.

    Returns:
        Exit code, whether it changed anything, and its standard error.
    """
    script = str(wheels / INSTALLER.name)
    command = [sys.executable, "-c", WITHOUT_SYNC, script, str(link), "--", *disarm_options]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, bool(result.stdout) and json.loads(result.stdout)["changed"], result.stderr
