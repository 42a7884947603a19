"""Runner of a student in PyTorch: baseline for measurements, and engine for GPUs without TensorRT.

`edge` imports no torch, so pyproject.toml registers this module for `aerogaze profile --torch`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Tensor
from edge.hardware.host import detect_machine
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.tensorrt.runner import GpuTiming
from edge.profiler.measurement.candidate import Candidate
from edge.release.release import Form, Release, StateSpec
from trainer.models.forms import forms_of
from trainer.models.student import Student, load_student

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NATIVE_FLAGS = {"fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}, "bf16": {"avx512_bf16", "amx_bf16", "bf16"}}
"""Processor flags by precision: with any of them the processor computes in that precision natively."""


@dataclass(frozen=True)
class TorchGraph:
    """Network of a student with the names and shapes of its inputs and outputs.

    Attributes:
        inputs: Names of the frames, in the order of the network's arguments.
        shape: Shape of each frame, with its batch.
        output: Name of the saliency map.
        states: Recurrent states; the network takes them after the frames and returns them after the map.
    """

    network: nn.Module
    inputs: Sequence[str]
    shape: tuple[int, ...]
    output: str
    states: Sequence[StateSpec]


class TorchRunner:
    """Implementation of `Runner` in PyTorch. On a GPU, the network runs in a CUDA graph, or eagerly.

    Not yet run on a GPU.

    Attributes:
        description: PyTorch's version and the processor.
        timing: Times of the last frame on the GPU; None on a CPU, or if they were not asked for.
    """

    def __init__(
        self,
        graph: TorchGraph,
        dtype: torch.dtype,
        threads: int | None = None,
        timed: bool = False,
        eager: bool = False,
    ) -> None:
        """Move the network to the device; on a GPU, capture it unless it is to run eagerly.

        Args:
            graph: The network. It is changed.
            dtype: Type to compute in.
            threads: CPU threads; None takes all cores.
            timed: Measure `timing` after each frame. Only on a GPU.
            eager: Launch each kernel by itself. Without effect on a CPU, where nothing else is possible.
        """
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        threads = threads or detect_machine().cores
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # TensorRT runs without TF32 here; compare like with like
        self._network = graph.network.to(self._device, dtype).eval()
        self._inputs, self._output = tuple(graph.inputs), graph.output
        starts = {
            s.input: torch.full(s.shape, s.start, dtype=dtype, device=self._device) for s in graph.states
        }
        self._state = RecurrentState(graph.states, starts)
        frames = [torch.zeros(graph.shape, dtype=dtype, device=self._device) for _ in graph.inputs]
        self._static = [*frames, *(start.clone() for start in starts.values())]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: tuple[torch.Tensor, ...] = ()
        event = partial(torch.cuda.Event, enable_timing=True)
        self._events = [event() for _ in range(4)] if timed else []
        self.timing: GpuTiming | None = None
        processor = f"CPU, {threads} thread{'s' * (threads > 1)}"
        if self._device.type == "cuda":
            if not eager:
                self._capture()
            processor = f"{torch.cuda.get_device_name()}, {'eager' if eager else 'CUDA graph'}"
        self.description = f"torch {torch.__version__}, {processor}"

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs by name; states are kept for the next call."""
        started = time.perf_counter()
        with torch.inference_mode():
            frames = [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self._inputs]
            arguments = [*frames, *self._state.feed().values()]
            results = self._replay(arguments) if self._graph else self._run(arguments)
            names = (self._output, *self._state.outputs)
            # On a GPU the work is only queued so far; copying the map to the CPU waits for it.
            enqueue_ms = (time.perf_counter() - started) * 1e3
            self._state.update(dict(zip(names, results, strict=True)))
            saliency: Tensor = results[0].float().cpu().numpy()
            self._record(3)
        if self._events:
            self._events[3].synchronize()
            times = (a.elapsed_time(b) for a, b in pairwise(self._events))
            self.timing = GpuTiming(enqueue_ms, *times)
        return {self._output: saliency}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Set every state to its start value, for frames that come at `fps` frames per second."""
        self._state.reset(fps)

    def close(self) -> None:
        """Free the network."""
        del self._network, self._graph, self._static, self._results

    def _record(self, event: int) -> None:
        """Record a CUDA event: 0 started, 1 copied in, 2 computed, 3 copied out."""
        if self._events:
            self._events[event].record()

    def _run(self, arguments: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        dtype = self._static[0].dtype
        self._record(0)
        moved = [tensor.to(self._device, dtype) for tensor in arguments]
        self._record(1)
        results = self._compute(moved)
        self._record(2)
        return results

    def _compute(self, arguments: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        results = self._network(*arguments)
        return results if isinstance(results, tuple) else (results,)

    def _capture(self) -> None:
        """Capture the network. `torch.cuda.graph` requires a warm-up run on another stream first."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            self._compute(self._static)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._results = self._compute(self._static)

    def _replay(self, arguments: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        self._record(0)
        for static, tensor in zip(self._static, arguments, strict=True):
            static.copy_(tensor)
        assert self._graph is not None
        self._record(1)
        self._graph.replay()
        self._record(2)
        saliency, *states = self._results
        # The next replay overwrites the results, but the states may be fed several frames later.
        return (saliency, *(state.clone() for state in states))


def torch_candidates(
    name: str,
    release: Release,
    precisions: Sequence[str],
    form: Form,
    threads: int | None,
    batches: Iterable[int],
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates of a student in PyTorch, to be measured together with its release.

    Args:
        name: The student.
        release: The release that the student is compared with.
        precisions: Keys of `DTYPES`.
        form: Form of the network.
        threads: CPU threads; None takes all cores.
        batches: Batch sizes.

    Returns:
        The candidates, and for each one left out the reason.

    Raises:
        InputError: There is no such student or precision, or the student is not the release's.
    """
    if unknown := next((precision for precision in precisions if precision not in DTYPES), None):
        raise InputError(f"unknown precision {unknown!r} for --torch; expected one of {', '.join(DTYPES)}")
    student = load_student(name)
    forms = forms_of(student)
    if form not in forms.modules:
        available = ", ".join(forms.modules)
        raise InputError(f"student {student.name} has no {form} form; it has {available}: choose --form")
    if release.raw_frame is not None or student.settings.preprocessing() != release.preprocessing:
        raise InputError(
            f"student {student.name} takes other frames than release {release.name}; expected the release's "
            "own student, and a release that takes prepared frames: name both with --student and RELEASE"
        )
    candidates, left_out = [], []
    for batch in batches:
        if form == "stream" and batch != 1:
            left_out.append(
                f"torch at batch {batch}: a stream keeps the state of one flight; measure --form pair"
            )
        else:
            modes = (False, True) if torch.cuda.is_available() else (False,)
            candidates += [
                _candidate(student, release, form, threads, batch, precision, eager)
                for precision in precisions
                for eager in modes
            ]
    return candidates, left_out


def _candidate(
    student: Student,
    release: Release,
    form: Form,
    threads: int | None,
    batch: int,
    precision: str,
    eager: bool,
) -> Candidate:
    dtype = DTYPES[precision]
    sides = release.input_shape(batch, form)[1:]
    shape = (batch, *(int(side or 1) for side in sides))

    def open_runner(timed: bool = False) -> TorchRunner:
        copied = forms_of(replace(student, network=deepcopy(student.network)))  # the runner changes its type
        graph = TorchGraph(
            copied.modules[form],
            release.input_names(form),
            shape,
            release.output,
            copied.states if form == "stream" else (),
        )
        try:
            return TorchRunner(graph, dtype, threads, timed, eager)
        except torch.cuda.OutOfMemoryError:
            raise InputError(
                f"torch {precision} at batch {batch}: the GPU's memory is full; measure a smaller --batch"
            ) from None

    on_gpu = torch.cuda.is_available()
    if precision == "fp32":
        is_native = True
    elif on_gpu:
        is_native = precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = bool(detect_machine().flags & _NATIVE_FLAGS[precision])
    values = sum(parameter.numel() for parameter in student.network.parameters())
    return Candidate(
        precision=f"torch {precision}" + " eager" * eager,
        form=form,
        batch=batch,
        open=open_runner,
        size_bytes=values * dtype.itemsize,
        emulated=not is_native,
        open_timed=(lambda: open_runner(timed=True)) if on_gpu else None,
        static=on_gpu,
    )
