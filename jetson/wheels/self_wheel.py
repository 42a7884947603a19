"""Our own wheel, written from the packages that are running: no builder, no network, same code same bytes.

Left out: students, and the releases that ship. What a board flies comes in signed bundles only.
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
LEFT_OUT = ("edge/release/shipped/", "trainer/students/")
START_OF_ZIP = (1980, 1, 1, 0, 0, 0)
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: aerogaze\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_own_wheel() -> tuple[str, bytes]:
    """Return the name and content of a wheel of the aerogaze that is running.

    Raises:
        InputError: it was not installed, or before it had the board's extras: what it needs is not known.
    """
    here = distribution("aerogaze")
    metadata = here.read_text("METADATA") or here.read_text("PKG-INFO")
    entry_points = here.read_text("entry_points.txt")
    if not metadata or not entry_points or "jetson" not in (here.metadata.get_all("Provides-Extra") or ()):
        raise InputError("this aerogaze does not know what it needs: pip install it (or -e .) here again")
    info = f"aerogaze-{here.version}.dist-info"
    files = dict(_code())
    files |= {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": WHEEL_FILE.encode(),
        f"{info}/entry_points.txt": entry_points.encode(),
    }
    files[f"{info}/RECORD"] = build_record(files, f"{info}/RECORD")
    return f"aerogaze-{here.version}-py3-none-any.whl", zip_files(files)


def _code() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for place in map(Path, spec.submodule_search_locations or ()):
            for path in sorted(place.rglob("*")):
                name = f"{package}/{path.relative_to(place).as_posix()}"
                if path.is_file() and "__pycache__" not in path.parts and not name.startswith(LEFT_OUT):
                    yield name, path.read_bytes()


def build_record(files: dict[str, bytes], own_name: str) -> bytes:
    """Return a wheel's RECORD: each file with its hash, itself without."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(data)))
    rows.writerow((own_name, "", ""))
    return text.getvalue().encode()


def zip_files(files: dict[str, bytes]) -> bytes:
    """Return files as an archive that is the same, byte for byte, whenever it is made."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, START_OF_ZIP)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
