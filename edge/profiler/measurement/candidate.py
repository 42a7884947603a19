"""Candidates of a measurement: graphs on an engine, or a student in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import GraphInput
from edge.hardware.host import detect_machine
from edge.inference.engine_selection import EngineChoice, SelectedEngine, select_engine
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import Runner
from edge.inference.runner_factory import open_selected_engine
from edge.release.release import PRECISIONS, Form, Release

InputFeed = dict[str, GraphInput]
"""Inputs of one call, by the names of the graph's inputs."""


class ProfiledRunner(Runner, Protocol):
    """A runner that times its layers."""

    def layer_times(self, warm: int) -> list[LayerTime]:
        """Stop timing and return the layers in execution order, without the first `warm` runs."""


@dataclass(frozen=True)
class Candidate:
    """One row of a measurement: a precision at a batch size, and how to open a runner of it.

    Attributes:
        precision: Precision of a release's graph, or "torch " and PyTorch's.
        form: Form of the graph.
        batch: Batch size that the opened runners are called with.
        open: Opens a runner.
        size_bytes: Size of the graph, the engine or the weights.
        emulated: The processor does not compute in this precision natively, so the latency says nothing
            about a drone.
        open_timed: Opens a runner that also times what happens on the GPU; None without a GPU.
        open_profiled: Opens a runner that times each layer of `graph`, given a path for its trace; None
            where no engine can.
        graph: The ONNX file; None in PyTorch.
        static: The runner accepts no batch size but `batch`.
    """

    precision: str
    form: Form
    batch: int
    open: Callable[[], Runner]
    size_bytes: int
    emulated: bool = False
    open_timed: Callable[[], Runner] | None = None
    open_profiled: Callable[[Path], ProfiledRunner] | None = None
    graph: Path | None = None
    static: bool = False

    @property
    def name(self) -> str:
        """Return the name of the row, unique in a measurement."""
        return self.precision + (f" x{self.batch}" if self.batch > 1 else "")


def find_candidates(
    release: Release,
    precisions: Sequence[str],
    form: Form,
    engine: EngineChoice = "onnxruntime",
    threads: int | None = None,
    batches: Iterable[int] = (1,),
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates of a release that can be measured.

    Args:
        release: The release.
        precisions: Precisions to measure.
        form: Form of the graphs.
        engine: Engine to run them on.
        threads: Threads of the engine; None for one per core.
        batches: Batch sizes to measure each precision at.

    Returns:
        The candidates, and the reasons why others were left out.

    Raises:
        InputError: A precision is unknown, or nothing can be measured (with the first reason).
    """
    if unknown := next((name for name in precisions if name not in PRECISIONS), None):
        raise InputError(f"unknown precision {unknown!r}; expected one of {', '.join(PRECISIONS)}")
    candidates: list[Candidate] = []
    left_out: list[str] = []
    first_error: InputError | None = None
    for batch in batches:
        for precision in precisions:
            try:
                selected = select_engine(release, precision, form, engine)
                _check_batch(selected, batch)
            except InputError as error:  # noqa: PERF203 - a few
                left_out.append(f"{precision} at batch {batch}: {error}")
                first_error = first_error or error
            else:
                candidates.append(_engine_candidate(release, selected, batch, threads))
                if selected.fallback_reason:
                    left_out.append(
                        f"{precision} on TensorRT: {selected.fallback_reason}; ONNX Runtime ran it"
                    )
    if not candidates:
        reason = left_out[0].partition(": ")[2] if left_out else "nothing to measure"
        raise InputError(reason) from first_error
    # The reasons against TensorRT are the same at every batch size.
    return candidates, list(dict.fromkeys(left_out))


def golden_feeds(release: Release, form: Form, batch: int) -> list[InputFeed]:
    """Return inputs made of the release's golden frames, each array (batch, ...).

    In clip form a feed is a whole clip; at batch 1 there is one feed per golden frame, else one in all.
    """
    frames, _ = release.load_golden()
    if form == "stream" and release.preprocessing.alignment is not None:
        preprocess = release.stream_preprocessor(NOMINAL_FPS)
        return [dict(zip(release.input_names(form), preprocess(frame), strict=True)) for frame in frames]
    prepared: list[GraphInput] = [release.prepare(frame) for frame in frames]
    names = release.input_names(form)
    if form == "clip" and release.clip is not None:
        clip_frames = [prepared[index % len(prepared)] for index in range(release.clip.frames)]
        clip = np.stack(clip_frames, axis=2).astype(np.float32)
        return [{names[0]: np.repeat(clip, batch, axis=0)}]
    pairs = list(zip(prepared, [prepared[0], *prepared], strict=False))
    return [
        {
            name: np.concatenate([pairs[(start + offset) % len(pairs)][side] for offset in range(batch)])
            for side, name in enumerate(names)
        }
        for start in range(len(pairs) if batch == 1 else 1)
    ]


def _check_batch(selected: SelectedEngine, batch: int) -> None:
    if selected.graph.batch not in (None, batch):
        raise InputError(
            f"{selected.graph.file} has batch {selected.graph.batch}: a stream keeps the state of one "
            "flight; export and measure --form pair, whose graphs accept any batch size"
        )


def _engine_candidate(
    release: Release, selected: SelectedEngine, batch: int, threads: int | None
) -> Candidate:
    graph, plan = selected.graph, selected.plan

    def open_profiled(trace: Path) -> ProfiledRunner:
        runner = open_selected_engine(release, selected, threads, batch, profile_to=trace)
        return cast(ProfiledRunner, runner)

    return Candidate(
        precision=graph.precision,
        form=graph.form,
        batch=batch,
        open=lambda: open_selected_engine(release, selected, threads, batch),
        size_bytes=(plan.path if plan else release.path(graph)).stat().st_size,
        emulated=plan is None and not detect_machine().computes_natively(graph.precision),
        open_timed=(lambda: open_selected_engine(release, selected, threads, batch, timed=True))
        if plan
        else None,
        open_profiled=open_profiled,
        graph=release.path(graph),
        static=plan is not None,
    )
