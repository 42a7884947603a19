"""What is measured against what: a graph on an engine, or a student in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Input
from edge.hardware.host import this_machine
from edge.inference.engine_selection import SelectedEngine, select_engine
from edge.inference.interface.layer_times import LayerTime
from edge.inference.interface.runner import Runner
from edge.inference.runner_factory import open_selected_engine
from edge.release.manifest import PRECISIONS, Form, Release

InputFeed = dict[str, Input]


class ProfiledRunner(Runner, Protocol):
    """A runner that times its layers."""

    def layer_times(self, warm: int) -> list[LayerTime]:
        """End timing; return the layers in the order they ran in, less the first `warm` runs."""


@dataclass(frozen=True)
class Candidate:
    """One row of a measurement. `open` and `open_timed` give a runner at `batch`.

    `emulated`: the processor does not compute in this precision itself: no sign of a drone's speed.
    `open_timed`: a runner that also times what happens on the GPU; None where nothing does.
    `open_profiled`, by a place for its notes, times each layer of `graph`, the ONNX file; None elsewhere.
    `static`: it takes `batch` only, even where one frame would do.
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
        """Return what tells it from the others of a measurement."""
        return self.precision + (f" x{self.batch}" if self.batch > 1 else "")


def find_candidates(
    release: Release,
    precisions: Sequence[str],
    form: Form,
    engine: EngineChoice = "onnxruntime",
    threads: int | None = None,
    batches: Iterable[int] = (1,),
) -> tuple[list[Candidate], list[str]]:
    """Return what can be measured of a release, and of what cannot be, why.

    Raises:
        InputError: a precision that nobody knows, or nothing can be measured: the first reason.
    """
    if unknown := next((name for name in precisions if name not in PRECISIONS), None):
        raise InputError(f"unknown precision {unknown!r}; expected one of {', '.join(PRECISIONS)}")
    found: list[Candidate] = []
    left_out: list[str] = []
    first: InputError | None = None
    for batch in batches:
        for precision in precisions:
            try:
                chosen = select_engine(release, precision, form, engine)
                _check_batch(chosen, batch)
            except InputError as error:  # noqa: PERF203 - a few
                left_out.append(f"{precision} at batch {batch}: {error}")
                first = first or error
            else:
                found.append(_contender(release, chosen, batch, threads))
                if chosen.instead:
                    left_out.append(f"{precision} on TensorRT: {chosen.instead}; ONNX Runtime ran it")
    if not found:
        raise InputError(left_out[0].partition(": ")[2] if left_out else "nothing to measure") from first
    return found, list(dict.fromkeys(left_out))  # TensorRT's reasons are those of every batch


def golden_feeds(release: Release, form: Form, batch: int) -> list[InputFeed]:
    """Return inputs made of the release's golden frames: by name, (batch, ...); in clip form, whole clips."""
    frames, _ = release.golden()
    prepared: list[Input] = [release.prepare(frame) for frame in frames]
    names = release.inputs_of(form)
    if form == "clip" and release.clip is not None:
        frames_in = [prepared[index % len(prepared)] for index in range(release.clip.frames)]
        clip = np.stack(frames_in, axis=2).astype(np.float32)
        return [{names[0]: np.repeat(clip, batch, axis=0)}]
    pairs = list(zip(prepared, [prepared[0], *prepared], strict=False))
    return [
        {
            name: np.concatenate([pairs[(index + more) % len(pairs)][at] for more in range(batch)])
            for at, name in enumerate(names)
        }
        for index in range(len(pairs) if batch == 1 else 1)
    ]


def _check_batch(chosen: SelectedEngine, batch: int) -> None:
    if chosen.graph.batch not in (None, batch):
        raise InputError(
            f"{chosen.graph.file} has batch {chosen.graph.batch}: a stream carries one flight's past; "
            "export and measure --form pair, whose graphs take any batch"
        )


def _contender(release: Release, chosen: SelectedEngine, batch: int, threads: int | None) -> Candidate:
    graph, built = chosen.graph, chosen.built

    def profiled(place: Path) -> ProfiledRunner:
        return cast(ProfiledRunner, open_selected_engine(release, chosen, threads, batch, profile_to=place))

    return Candidate(
        graph.precision,
        graph.form,
        batch,
        lambda: open_selected_engine(release, chosen, threads, batch),
        (built.path if built else release.path(graph)).stat().st_size,
        built is None and not this_machine().native(graph.precision),
        (lambda: open_selected_engine(release, chosen, threads, batch, timed=True)) if built else None,
        profiled,
        release.path(graph),
        built is not None,
    )
