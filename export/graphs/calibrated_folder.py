"""Reader of the folder that `aerogaze calibrate` writes for an ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.release.release import TargetEngine

CALIBRATION_FILE = "calibration.json"
SCHEMA = 1


@dataclass(frozen=True)
class CalibratedGraph:
    """Folder of a calibrated graph, as its `calibration.json` describes it.

    Attributes:
        image: Fields of `calibration.inputs.onnx_import.ImageInput`.
        output: Output that accuracy was evaluated on.
        hashes: SHA-256 of each file, by name.
    """

    folder: Path
    name: str
    image: Mapping[str, Any]
    output: str
    hashes: Mapping[str, str]

    def graphs(self, engine: TargetEngine) -> tuple[Path, ...]:
        """Return the graphs that an engine can run, float graphs first."""
        names = ("fp32.onnx", "fp16.onnx", f"int8.{engine}.onnx")
        return tuple(self.folder / name for name in names if name in self.hashes)


def read_calibrated_graph(folder: Path) -> CalibratedGraph:
    """Read `calibration.json`. The other files are not checked.

    Raises:
        InputError: It cannot be read, or has another schema.
    """
    path = folder / CALIBRATION_FILE
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise InputError(
                f"{path} has schema {document['schema']!r}; expected schema {SCHEMA}, which this aerogaze "
                "reads: calibrate again"
            )
        # Only the last part of each name: an edited file must not point outside the folder.
        hashes = {Path(name).name: str(file["sha256"]) for name, file in document["files"].items()}
        return CalibratedGraph(
            folder=folder,
            name=str(document["name"]),
            image=dict(document["input"]),
            output=str(document["output"]),
            hashes=hashes,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error!r}): calibrate again") from None


def load_calibrated_graph(folder: Path) -> CalibratedGraph:
    """Read `calibration.json` and check that every file is present and unchanged.

    Raises:
        InputError: As `read_calibrated_graph`; a file is missing or changed.
    """
    graph = read_calibrated_graph(folder)
    for name, digest in graph.hashes.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            problem = (
                "is not the file that was written (its hash differs)" if path.is_file() else "is missing"
            )
            raise InputError(f"{path} {problem}: copy the whole folder, or calibrate again")
    return graph
