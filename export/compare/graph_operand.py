"""Operands of `aerogaze compare`: a graph of a release or a graph file, and the backend that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx

from edge.core.errors import InputError
from edge.release.manifest import load_release
from edge.release.release import Form, Release, TargetEngine

Backend = Literal["onnxruntime", "tensorrt", "rtx", "local"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class GraphOperand:
    """A graph and the backend that runs it.

    Attributes:
        text: The operand as given on the command line.
        model: The ONNX file.
        precision: Precision of a release's graph; empty for a graph file.
        backend: "onnxruntime" runs the graph made for it. "tensorrt" runs the graph made for TensorRT with
            ONNX Runtime, without optimizations. "rtx" and "local" build that graph and run it on a GPU.
        release: The release of the graph; None for a graph file.
        form: Form of a release's graph; None for a graph file.
    """

    text: str
    model: Path
    precision: str
    backend: Backend
    release: Release | None
    form: Form | None

    @classmethod
    def parse(cls, text: str, form: Form | None = None) -> GraphOperand:
        """Parse `RELEASE[:PRECISION][@BACKEND]` or `FILE.onnx[@BACKEND]`.

        The default precision of a release is fp32, the default form its first one, the default backend
        "onnxruntime".

        Raises:
            InputError: If there is no such release, precision, form, backend or file.
        """
        name, backend_name = _split_backend(text)
        backend = next((b for b in BACKENDS if b == (backend_name or "onnxruntime")), None)
        if backend is None:
            raise InputError(
                f"unknown backend {backend_name!r} for {name}; expected one of {', '.join(BACKENDS)}"
            )
        if Path(name).suffix.lower() == ".onnx":
            if not Path(name).is_file():
                raise InputError(f"no graph {name}; expected an ONNX file, or a release as my-release:int8")
            return cls(text, Path(name), "", backend, None, None)
        # A folder's name may contain a colon, too.
        is_whole = ":" not in name or Path(name).is_dir()
        folder, _, precision = (name, "", "") if is_whole else name.rpartition(":")
        release, precision = load_release(folder), precision or "fp32"
        engine: TargetEngine = "onnxruntime" if backend == "onnxruntime" else "tensorrt"
        form = form or release.forms()[0]
        graph = release.graph(precision, form, engine)
        return cls(text, release.path(graph), precision, backend, release, form)


def _split_backend(text: str) -> tuple[str, str]:
    """Return the name of an operand and of its backend; a path such as me@host/m.onnx has no backend."""
    name, at, backend = text.rpartition("@")
    is_path = Path(text).exists() or (":" in backend and Path(text.rpartition(":")[0]).is_dir())
    return (text, "") if not at or "/" in backend or is_path else (name, backend)


def load_graph(path: Path) -> onnx.ModelProto:
    """Return the graph in an ONNX file.

    Raises:
        InputError: If the file is not an ONNX file.
    """
    try:
        model = onnx.load(path)
    except Exception:  # protobuf's DecodeError has no types
        model = onnx.ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX file, or is cut off: export it again")
    return model
