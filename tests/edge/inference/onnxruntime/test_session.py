"""Opening of graphs: what happens where ONNX Runtime has no kernel for a graph that it optimized."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as MissingKernelError

from edge.core.errors import InputError
from edge.inference.onnxruntime.session import create_session
from edge.inference.runner_factory import open_runner
from edge.release.manifest import load_release

ALL, EXTENDED = (
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
)


@pytest.mark.parametrize("works", [EXTENDED, None])
def test_graph_without_a_kernel_runs_in_its_own_layout_or_says_why(
    works: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/board/test_arm.py meets this in skd-64-motion in fp16."""
    session, levels = ort.InferenceSession, []

    def open_session(path: Any, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        levels.append(options.graph_optimization_level)
        if levels[-1] != works:
            raise MissingKernelError("no kernel for AveragePool (\n)\n")
        return session(path, options, **settings)

    monkeypatch.setattr(ort, "InferenceSession", open_session)
    release = load_release("skd-32")
    if works:
        open_runner(release, "fp32").close()
    else:
        with pytest.raises(InputError, match=r"no kernel for AveragePool \( \)\): export it again"):
            open_runner(release, "fp32")
    assert levels == [ALL, EXTENDED]


def test_graph_that_was_to_stay_as_written_is_not_opened_with_optimizations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = []

    def open_session(path: Any, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        levels.append(options.graph_optimization_level)
        raise MissingKernelError("no kernel")

    monkeypatch.setattr(ort, "InferenceSession", open_session)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with pytest.raises(MissingKernelError):
        create_session(b"", options)
    assert levels == [ort.GraphOptimizationLevel.ORT_DISABLE_ALL]
