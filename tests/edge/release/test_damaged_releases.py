"""Tests of releases from elsewhere that are damaged or hostile: one line, without a traceback."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json
from edge.release.manifest import RELEASE_MANIFEST, load_release, locate_release
from edge.release.release import GOLDEN_FILE


@pytest.fixture(scope="module")
def shipped() -> Path:
    return locate_release("skd-32")


def seal(folder: Path) -> None:
    """Write the hashes of the present files into `release.json`, as an attacker can."""
    path = folder / RELEASE_MANIFEST
    document = json.loads(path.read_text())
    for name in document["files"]:
        file = folder / name
        document["files"][name] = {"sha256": sha256(file), "size_bytes": file.stat().st_size}
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r'"size_bytes": \d+', '"size_bytes": 1e999'),
        (r'"size_bytes": \d+', '"size_bytes": ' + "9" * 5000),
        (r'"size_bytes": \d+', '"size_bytes": NaN'),
        (r'"scale": [^,]+', '"scale": ' + "9" * 400),
        (r'"scale": [^,]+', '"scale": -1e999'),
        (r'"schema": 1', '"schema": ' + "1" * 30),
        (r"^\{", '{"deep": ' + "[" * 200_000 + ","),
        (r"^\{", '{"deep": ' + "[" * 100 + "]" * 100 + ","),
        (r"^", "\ufeff\udc80"),
    ],
    ids=lambda text: text[:24].encode("ascii", "replace").decode(),
)
def test_manifest_with_values_beyond_the_limits_is_one_error(
    shipped: Path, tmp_path: Path, pattern: str, text: str
) -> None:
    folder = Path(shutil.copytree(shipped, tmp_path / "release"))
    path = folder / RELEASE_MANIFEST
    changed = re.sub(pattern, text.replace("\\", "\\\\"), path.read_text(), count=1)
    path.write_bytes(changed.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        load_release(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


GOLDEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "no maps": lambda data: npz(frames=npy(np.zeros((1, 32, 32, 3), np.uint8))),
    "objects": lambda data: npz(frames=npy(np.array([{}], object)), maps=npy(0.0)),
    "no frames": lambda data: npz(frames=npy(np.zeros((0, 9), np.uint8)), maps=npy(np.float32(0))),
    "numbers": lambda data: npz(frames=npy(np.uint8(7)), maps=npy(np.float32(0))),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_set_that_is_damaged_is_one_error(shipped: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(shipped, tmp_path / "release"))
    golden = folder / GOLDEN_FILE
    golden.write_bytes(GOLDEN[kind](golden.read_bytes()))
    seal(folder)
    release = load_release(folder)
    with pytest.raises(InputError, match="export the release again") as error:
        release.load_golden()
    assert "\n" not in str(error.value)


def test_shipped_manifests_are_within_the_limits(shipped: Path) -> None:
    for manifest in shipped.parent.glob(f"*/{RELEASE_MANIFEST}"):
        assert parse_json(manifest.read_bytes()) == json.loads(manifest.read_text())
