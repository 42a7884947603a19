"""Engines: a release's graphs compiled by TensorRT on the machine at hand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.errors import InputError
from edge.files import sha256, written_folder
from edge.release import Release
from edge.tensorrt_api import Kind, build_plan
from edge.weights import check_finite

INDEX = "engines.json"


@dataclass(frozen=True)
class Built:
    """One engine and what it was made from."""

    file: str
    graph: str
    onnx_sha256: str
    tensorrt: str
    size_bytes: int
    seconds: float


def build_engines(release: Release, kind: Kind, folder: Path) -> Iterator[Built]:
    """Compile every graph made for TensorRT, one after the other; the folder appears with the last.

    Raises:
        InputError: TensorRT is missing or refuses a graph (named), or the folder cannot be written.
    """
    graphs = [graph for graph in release.graphs if graph.engine in ("any", "tensorrt")]
    if not graphs:
        raise InputError(f"release {release.name} has no graph for TensorRT: export it again")
    done = []
    with written_folder(folder, ours=lambda e: e.suffix == ".engine" or e.name == INDEX) as path:
        for graph in graphs:
            started = time.perf_counter()
            with _named(graph.file):
                check_finite(release.path(graph))
                plan = build_plan(release.path(graph).read_bytes(), kind)
            file = Path(graph.file).with_suffix(".engine").name
            (path / file).write_bytes(plan.data)
            built = Built(
                file,
                graph.file,
                sha256(release.path(graph)),
                f"{kind} {plan.tensorrt}",
                len(plan.data),
                time.perf_counter() - started,
            )
            done.append(built)
            yield built
        index = {"schema": 1, "release": release.name, "engines": [asdict(built) for built in done]}
        (path / INDEX).write_text(json.dumps(index, indent=1) + "\n")


@contextmanager
def _named(file: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
