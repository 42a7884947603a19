"""What engines are built of: a release, or what `aerogaze calibrate` wrote of anybody's graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import InputError
from edge.release.manifest import Release, load_release
from export.graphs.calibrated_folder import CALIBRATION_FILE, load_calibrated_graph


@dataclass(frozen=True)
class EngineSource:
    """A name, a folder, and the graphs in it that are made for TensorRT."""

    name: str
    folder: Path
    graphs: tuple[Path, ...]


def open_engine_source(name: str | None) -> EngineSource:
    """Open a release (as `edge.release.manifest.load_release` finds it) or a folder that `aerogaze calibrate` wrote.

    Raises:
        InputError: it is neither, a file in it was changed, or it has no graph for TensorRT.
    """
    if name is not None and (Path(name) / CALIBRATION_FILE).is_file():
        found = load_calibrated_graph(Path(name))
        return EngineSource(found.name, found.folder, found.graphs("tensorrt"))
    if name is not None and Path(name).suffix == ".onnx" and not Path(name).is_dir():
        raise InputError(
            f"{name} is a graph alone; expected a release, or the folder that aerogaze calibrate makes of it"
        )
    return release_engine_source(load_release(name))


def release_engine_source(release: Release) -> EngineSource:
    """Return what is built of a release.

    Raises:
        InputError: it has no graph for TensorRT.
    """
    graphs = tuple(release.path(graph) for graph in release.graphs if graph.engine in ("any", "tensorrt"))
    if not graphs:
        raise InputError(f"release {release.name} has no graph for TensorRT: export it again")
    return EngineSource(release.name, release.folder, graphs)
