"""ONNX Runtime on the CPU: the embedded default engine, the same results everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Tensor
from edge.hardware.host import detect_machine
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.onnxruntime.layers import read_events
from edge.release.manifest import StateSpec

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
STOP_SPINNING = "session.force_spinning_stop", "1"
"""For a session: its threads spin while it runs, and sleep between. Else they go on for milliseconds, at the
cost of the rest of the pipeline, of a session that is measured next, and of a battery."""

Shape = tuple[int | None, ...]


class OnnxRunner:
    """A `Runner` of one ONNX file.

    `inputs` and `outputs`: the tensors that the graph must have beside its states, with their
    shapes; None is a dynamic side. `profile_to`: the runtime times its layers, and keeps that in a file whose
    name begins so.

    Raises:
        InputError: the file is no ONNX graph that this ONNX Runtime runs, or has other tensors.
    """

    def __init__(
        self,
        path: Path,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        states: Sequence[StateSpec] = (),
        threads: int | None = None,
        profile_to: Path | None = None,
    ) -> None:
        threads = threads or detect_machine().cores
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry(*STOP_SPINNING)
        if profile_to:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_to)
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"ONNX Runtime {ort.__version__} cannot run {path} ({reason}): export it again"
            ) from None
        wanted = {**inputs, **{s.input: s.shape for s in states}}
        given = {**outputs, **{s.output: s.shape for s in states}}
        for side, expected in ((self._session.get_inputs(), wanted), (self._session.get_outputs(), given)):
            found = {t.name: tuple(d if isinstance(d, int) else None for d in t.shape) for t in side}
            if found != expected:
                raise InputError(
                    f"{path} has tensors {found}; the release says {dict(expected)}: export it again"
                )
        kinds = {t.name: t.type for t in self._session.get_inputs()}
        if odd := next((name for name in wanted if kinds[name] not in _DTYPES), None):
            raise InputError(f"{path}: {odd} is a {kinds[odd]}; expected floats: export it again")
        self._outputs = list(outputs)
        self._carried: RecurrentState[NDArray[np.floating]] = RecurrentState(
            states, {s.input: np.full(s.shape, s.start, _DTYPES[kinds[s.input]]) for s in states}
        )
        self._fetch = self._outputs + self._carried.outputs
        self.description = f"onnxruntime {ort.__version__}, CPU, {threads} thread{'s' * (threads > 1)}"

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs by name; states are carried to the next calls."""
        values = self._session.run(self._fetch, {**feed, **self._carried.feed()})
        given = dict(zip(self._fetch, values, strict=True))
        self._carried.update(given)
        return {name: given[name] for name in self._outputs}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""
        self._carried.reset(fps)

    def layer_times(self, warm: int) -> list[LayerTime]:
        """End profiling; return the layers in the order they ran in, less the first `warm` runs."""
        return read_events(json.loads(Path(self._session.end_profiling()).read_text()), warm)

    def close(self) -> None:
        """Free the session."""
        del self._session
