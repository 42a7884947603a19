"""What engines are built of: a release, or what `aerogaze calibrate` wrote of anybody's graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import InputError
from edge.release import manifest as releases
from edge.release.manifest import Release
from export.graphs import calibrated_folder as calibrated


@dataclass(frozen=True)
class Buildable:
    """A name, a folder, and the graphs in it that are made for TensorRT."""

    name: str
    folder: Path
    graphs: tuple[Path, ...]


def open_buildable(name: str | None) -> Buildable:
    """Open a release (as `edge.release.manifest.load` finds it) or a folder that `aerogaze calibrate` wrote.

    Raises:
        InputError: it is neither, a file in it was changed, or it has no graph for TensorRT.
    """
    if name is not None and (Path(name) / calibrated.RESULT).is_file():
        found = calibrated.load(Path(name))
        return Buildable(found.name, found.folder, found.graphs("tensorrt"))
    if name is not None and Path(name).suffix == ".onnx" and not Path(name).is_dir():
        raise InputError(
            f"{name} is a graph alone; expected a release, or the folder that aerogaze calibrate makes of it"
        )
    return of_release(releases.load(name))


def of_release(release: Release) -> Buildable:
    """Return what is built of a release.

    Raises:
        InputError: it has no graph for TensorRT.
    """
    graphs = tuple(release.path(graph) for graph in release.graphs if graph.engine in ("any", "tensorrt"))
    if not graphs:
        raise InputError(f"release {release.name} has no graph for TensorRT: export it again")
    return Buildable(release.name, release.folder, graphs)
