"""Builder of aerogaze's own wheel from the running packages, without build tools or network.

The same code gives the same bytes. Students and shipped releases are left out: boards fly only what
signed bundles contain.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from edge.core.errors import InputError

PACKAGES = ("edge", "export", "calibration", "trainer", "jetson")
EXCLUDED_FOLDERS = ("edge/release/shipped/", "trainer/students/")
OLDEST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of all entries, so that the bytes do not depend on the time of the build."""
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: aerogaze\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
"""Content of `WHEEL` in the dist-info folder."""


def build_own_wheel() -> tuple[str, bytes]:
    """Return the file name and content of a wheel of the running aerogaze.

    Raises:
        InputError: Aerogaze is not installed, or its installed metadata is too old to list what boards need.
    """
    own = distribution("aerogaze")
    metadata = own.read_text("METADATA") or own.read_text("PKG-INFO")
    entry_points = own.read_text("entry_points.txt")
    if not metadata or not entry_points or "jetson" not in (own.metadata.get_all("Provides-Extra") or ()):
        raise InputError(
            "the metadata of the installed aerogaze does not list its dependencies on a board: "
            "install it again with pip install (or pip install -e .)"
        )
    info_folder = f"aerogaze-{own.version}.dist-info"
    files = dict(_source_files())
    files |= {
        f"{info_folder}/METADATA": metadata.encode(),
        f"{info_folder}/WHEEL": WHEEL_FILE.encode(),
        f"{info_folder}/entry_points.txt": entry_points.encode(),
    }
    files[f"{info_folder}/RECORD"] = build_record(files, f"{info_folder}/RECORD")
    return f"aerogaze-{own.version}-py3-none-any.whl", zip_files(files)


def _source_files() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for folder in map(Path, spec.submodule_search_locations or ()):
            for path in sorted(folder.rglob("*")):
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                is_cache = "__pycache__" in path.parts
                if path.is_file() and not is_cache and not name.startswith(EXCLUDED_FOLDERS):
                    yield name, path.read_bytes()


def build_record(files: dict[str, bytes], own_name: str) -> bytes:
    """Return a wheel's RECORD: each file with its hash and size, and RECORD itself without."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(data)))
    rows.writerow((own_name, "", ""))
    return text.getvalue().encode()


def zip_files(files: dict[str, bytes]) -> bytes:
    """Return a reproducible archive of files: the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, OLDEST_ZIP_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
