"""A student run by PyTorch: what its release is measured against, and for GPUs without TensorRT.

`aerogaze profile --torch` finds this module by its name, for edge imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from edge.core.errors import InputError
from edge.core.frames import Input, Tensor
from edge.hardware.host import this_machine
from edge.inference.interface.recurrent_state import NOMINAL_FPS, RecurrentState
from edge.inference.tensorrt.runner import GpuTiming
from edge.profiler.measurement.candidate import Candidate
from edge.release.manifest import Form, Release, StateSpec
from trainer.models.forms import forms_of
from trainer.models.student import Student, load_student

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NATIVE = {"fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}, "bf16": {"avx512_bf16", "amx_bf16", "bf16"}}
"""Processor flags, any of which computes in the precision itself."""


class TorchRunner:
    """A `Runner` of a student's network in `dtype`, on the GPU if there is one, there in a CUDA graph.

    `inputs` are the frames' names, in the network's order; `shape` is that of one of them with its batch.
    `timed`, on a GPU: `timing` says after each frame what took how long there. Not yet run on a GPU.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        output: str,
        states: Sequence[StateSpec],
        dtype: torch.dtype,
        threads: int | None = None,
        timed: bool = False,
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        threads = threads or this_machine().cores
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, as TensorRT's is here
        self._network = network.to(self._device, dtype).eval()
        self._inputs, self._output = tuple(inputs), output
        starts = {s.input: torch.full(s.shape, s.start, dtype=dtype, device=self._device) for s in states}
        self._carried = RecurrentState(states, starts)
        given = [torch.zeros(shape, dtype=dtype, device=self._device) for _ in inputs]
        self._static = [*given, *(start.clone() for start in starts.values())]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: tuple[torch.Tensor, ...] = ()
        event = partial(torch.cuda.Event, enable_timing=True)
        self._marks = [event() for _ in range(4)] if timed else []
        self.timing: GpuTiming | None = None
        where = f"CPU, {threads} thread{'s' * (threads > 1)}"
        if self._device.type == "cuda":
            self._capture()
            where = f"{torch.cuda.get_device_name()}, CUDA graph"
        self.description = f"torch {torch.__version__}, {where}"

    def infer(self, feed: Mapping[str, Input]) -> dict[str, Tensor]:
        """Return the outputs by name; states are carried to the next calls."""
        given_at = time.perf_counter()
        with torch.inference_mode():
            frames = [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self._inputs]
            given = [*frames, *self._carried.feed().values()]
            results = self._replay(given) if self._graph else self._run(given)
            names = (self._output, *self._carried.outputs)
            enqueue_ms = (time.perf_counter() - given_at) * 1e3
            self._carried.keep(dict(zip(names, results, strict=True)))
            saliency: Tensor = results[0].float().cpu().numpy()
            self._mark(3)
        if self._marks:
            self._marks[3].synchronize()
            times = (a.elapsed_time(b) for a, b in pairwise(self._marks))
            self.timing = GpuTiming(enqueue_ms, *times)
        return {self._output: saliency}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""
        self._carried.reset(fps)

    def close(self) -> None:
        """Free the network."""
        del self._network, self._graph, self._static, self._results

    def _mark(self, place: int) -> None:
        """Let CUDA note when it comes here: copied in, computed, copied out."""
        if self._marks:
            self._marks[place].record()

    def _run(self, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        dtype = self._static[0].dtype
        results = self._network(*(tensor.to(self._device, dtype) for tensor in given))
        return results if isinstance(results, tuple) else (results,)

    def _capture(self) -> None:
        """Record the network once; `torch.cuda.graph` wants a run on another stream before."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            self._run(self._static)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._results = self._run(self._static)

    def _replay(self, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        self._mark(0)
        for static, tensor in zip(self._static, given, strict=True):
            static.copy_(tensor)
        assert self._graph is not None
        self._mark(1)
        self._graph.replay()
        self._mark(2)
        saliency, *states = self._results
        return (saliency, *(state.clone() for state in states))


def torch_candidates(
    name: str,
    release: Release,
    precisions: Sequence[str],
    form: Form,
    threads: int | None,
    batches: Iterable[int],
) -> tuple[list[Candidate], list[str]]:
    """Return a student's contenders in PyTorch, to be measured beside its release, and what is left out, why.

    Raises:
        InputError: there is no such student or precision, or it is not the release's.
    """
    if odd := next((one for one in precisions if one not in DTYPES), None):
        raise InputError(f"unknown precision {odd!r} for --torch; expected one of {', '.join(DTYPES)}")
    student = load_student(name)
    forms = forms_of(student)
    if form not in forms.modules:
        has = ", ".join(forms.modules)
        raise InputError(f"student {student.name} has no {form} form; it has {has}: choose --form")
    if release.raw_frame is not None or student.settings.preprocessing() != release.preprocessing:
        raise InputError(
            f"student {student.name} takes other frames than release {release.name}; name the release's own "
            "student with --student, and no release that prepares frames by itself"
        )
    found, left_out = [], []
    for batch in batches:
        if form == "stream" and batch != 1:
            left_out.append(
                f"torch at batch {batch}: a stream carries one flight's past; measure --form pair"
            )
        else:
            found += [_contender(student, release, one, form, threads, batch) for one in precisions]
    return found, left_out


def _contender(
    student: Student, release: Release, precision: str, form: Form, threads: int | None, batch: int
) -> Candidate:
    dtype = DTYPES[precision]
    sides = release.input_shape(batch, form)[1:]
    shape = (batch, *(int(side or 1) for side in sides))

    def opened(timed: bool = False) -> TorchRunner:
        fresh = forms_of(replace(student, network=deepcopy(student.network)))  # its type is changed
        states = fresh.states if form == "stream" else ()
        network, names = fresh.modules[form], release.inputs_of(form)
        try:
            return TorchRunner(network, names, shape, release.output, states, dtype, threads, timed)
        except torch.cuda.OutOfMemoryError:
            told = f"torch {precision} at batch {batch}: the GPU's memory is full; measure a smaller --batch"
            raise InputError(told) from None

    gpu = torch.cuda.is_available()
    if precision == "fp32":
        native = True
    elif gpu:
        native = precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(this_machine().flags & _NATIVE[precision])
    values = sum(parameter.numel() for parameter in student.network.parameters())
    size = values * torch.tensor([], dtype=dtype).element_size()
    timed = (lambda: opened(timed=True)) if gpu else None
    return Candidate(f"torch {precision}", form, batch, opened, size, not native, timed, static=gpu)
