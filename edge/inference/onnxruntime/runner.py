"""Runner on ONNX Runtime on the CPU: the default engine, available on every machine."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Tensor
from edge.hardware.host import detect_machine
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.interface.runner import GraphSignature
from edge.inference.onnxruntime.layers import read_events
from edge.inference.onnxruntime.session import STOP_SPINNING, create_session, describe_error

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxRunner:
    """A `Runner` of one ONNX file.

    Args:
        path: The ONNX file.
        signature: The tensors that the graph must have.
        threads: Number of threads; None for one per core.
        profile_to: Measure the layers. The profile is written to a file whose name starts with this path.

    Raises:
        InputError: ONNX Runtime cannot run the file, or the graph has other tensors than `signature`.
    """

    def __init__(
        self,
        path: Path,
        signature: GraphSignature,
        threads: int | None = None,
        profile_to: Path | None = None,
    ) -> None:
        threads = threads or detect_machine().cores
        self._session = _open_session(path, threads, profile_to)
        dtypes = _check_tensors(path, self._session, signature)
        self._states, self._outputs = signature.states, list(signature.outputs)
        self._starts: dict[str, NDArray[np.floating]] = {
            s.input: np.full(s.shape, s.start, _DTYPES[dtypes[s.input]]) for s in signature.states
        }
        self._state = RecurrentState(self._states, self._starts)
        self._fetch = self._outputs + self._state.outputs
        self.description = f"onnxruntime {ort.__version__}, CPU, {threads} thread{'s' * (threads > 1)}"

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs by name. States are kept for the next calls."""
        arrays = self._session.run(self._fetch, {**feed, **self._state.feed()})
        outputs = dict(zip(self._fetch, arrays, strict=True))
        self._state.update(outputs)
        return {name: outputs[name] for name in self._outputs}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Set every state to its start value; the next frames come at `fps` frames per second."""
        self._state.reset(fps)

    def share(self) -> OnnxRunner:
        """Return a runner of the same session with states of its own; both may run at the same time."""
        shared = copy.copy(self)
        shared._state = RecurrentState(self._states, self._starts)
        return shared

    def layer_times(self, warm: int) -> list[LayerTime]:
        """End profiling and return the layers in execution order, without the first `warm` runs."""
        return read_events(json.loads(Path(self._session.end_profiling()).read_text()), warm)

    def close(self) -> None:
        """Free the session, unless it is shared."""
        del self._session


def _open_session(path: Path, threads: int, profile_to: Path | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(*STOP_SPINNING)
    if profile_to:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    try:
        return create_session(path, options)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run {path} ({describe_error(error)}): export it again"
        ) from None


def _check_tensors(path: Path, session: ort.InferenceSession, signature: GraphSignature) -> dict[str, str]:
    """Return the data types of the inputs by name, as ONNX Runtime names them.

    Raises:
        InputError: The graph has other tensors than `signature`, or an unsupported data type.
    """
    expected_inputs = {**signature.inputs, **{s.input: s.shape for s in signature.states}}
    expected_outputs = {**signature.outputs, **{s.output: s.shape for s in signature.states}}
    for tensors, expected in (
        (session.get_inputs(), expected_inputs),
        (session.get_outputs(), expected_outputs),
    ):
        actual = {t.name: tuple(d if isinstance(d, int) else None for d in t.shape) for t in tensors}
        if actual != expected:
            raise InputError(f"{path} has tensors {actual}; the release says {expected}: export it again")
    dtypes = {tensor.name: tensor.type for tensor in session.get_inputs()}
    for name in expected_inputs:
        if dtypes[name] not in _DTYPES:
            raise InputError(
                f"{path}: {name} is a {dtypes[name]}; expected one of {', '.join(_DTYPES)}: export it again"
            )
    return dtypes
