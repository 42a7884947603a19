"""Sources of engines: a release, or a folder that `aerogaze calibrate` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import InputError
from edge.release.manifest import load_release
from edge.release.release import Release
from export.graphs.calibrated_folder import CALIBRATION_FILE, load_calibrated_graph


@dataclass(frozen=True)
class EngineSource:
    """Graphs to build engines from.

    Attributes:
        name: Name of the release or of the calibrated graph.
        folder: Its folder.
        graphs: The ONNX files that are made for TensorRT.
    """

    name: str
    folder: Path
    graphs: tuple[Path, ...]


def open_engine_source(name: str | None) -> EngineSource:
    """Open a release or a folder that `aerogaze calibrate` wrote.

    Args:
        name: Folder of the release or of the calibrated graph; or as in `edge.release.manifest.load_release`.

    Raises:
        InputError: If it is neither, a file in it was changed, or it has no graph for TensorRT.
    """
    if name is not None and (Path(name) / CALIBRATION_FILE).is_file():
        graph = load_calibrated_graph(Path(name))
        return EngineSource(graph.name, graph.folder, graph.graphs("tensorrt"))
    if name is not None and Path(name).suffix.lower() == ".onnx" and not Path(name).is_dir():
        raise InputError(
            f"{name} is a graph file; expected a release, or the folder that aerogaze calibrate makes from it"
        )
    return release_engine_source(load_release(name))


def release_engine_source(release: Release) -> EngineSource:
    """Return the graphs of a release to build engines from.

    Raises:
        InputError: If the release has no graph for TensorRT.
    """
    graphs = tuple(release.path(graph) for graph in release.graphs if graph.engine in ("any", "tensorrt"))
    if not graphs:
        raise InputError(f"release {release.name} has no graph for TensorRT: export it again")
    return EngineSource(release.name, release.folder, graphs)
