"""What `aerogaze calibrate` wrote of anybody's graph, read again: its graphs, and how they are fed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.release.manifest import TargetEngine

CALIBRATION_FILE = "calibration.json"
SCHEMA = 1


@dataclass(frozen=True)
class CalibratedGraph:
    """A graph's folder as `calibration.json` tells of it.

    `image`: the fields of `calibration.inputs.onnx_import.ImageInput`; `output`: what was judged;
    `hashes`: the
    SHA-256 of each file, by name.
    """

    folder: Path
    name: str
    image: Mapping[str, Any]
    output: str
    hashes: Mapping[str, str]

    def graphs(self, engine: TargetEngine) -> tuple[Path, ...]:
        """Return the graphs there are for an engine, floats first."""
        names = ("fp32.onnx", "fp16.onnx", f"int8.{engine}.onnx")
        return tuple(self.folder / name for name in names if name in self.hashes)


def read_calibrated_graph(folder: Path) -> CalibratedGraph:
    """Read `calibration.json`; the files beside it are not looked at.

    Raises:
        InputError: it cannot be read, or is of another schema.
    """
    place = folder / CALIBRATION_FILE
    try:
        told = json.loads(place.read_text())
        if told["schema"] != SCHEMA:
            raise InputError(
                f"{place} has schema {told['schema']!r}; this aerogaze reads schema {SCHEMA}: calibrate again"
            )
        hashes = {Path(name).name: str(file["sha256"]) for name, file in told["files"].items()}
        return CalibratedGraph(folder, str(told["name"]), dict(told["input"]), str(told["output"]), hashes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{place} cannot be read ({error!r}): calibrate again") from None


def load_calibrated_graph(folder: Path) -> CalibratedGraph:
    """Read a folder and check that every file is there and unchanged.

    Raises:
        InputError: as `read_calibrated_graph`; a file is missing or changed.
    """
    found = read_calibrated_graph(folder)
    for name, digest in found.hashes.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            what = "is not the file that was written (its hash differs)" if path.is_file() else "is missing"
            raise InputError(f"{path} {what}: copy the folder whole, or calibrate again")
    return found
