"""int8 graphs made anew, for a release or for anybody's graph: proven in accuracy and in latency, or not
shipped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from calibration import familiar
from calibration.cost import Modelled
from calibration.dla import cache_text
from calibration.feeding import Feeding, open_session
from calibration.frames import CalibrationFrames
from calibration.histogram import Method
from calibration.judge import Budget, Judge, Quality
from calibration.latency import Measured
from calibration.placement import CPU, TENSORRT, Flavour, quantisable
from calibration.qdq import quantise
from calibration.ranges import Ranges, calibrate
from calibration.search import Assignment, Choice, Tried, choose
from calibration.user_graph import UserGraph
from edge.errors import InputError
from edge.files import sha256, writing, written_folder
from edge.machine import this_machine
from edge.metrics import cc, max_error
from edge.release import GOLDEN, Engine, Form, Graph, Release, Verified, save
from export.fp16 import to_fp16
from export.make import ours_in_release
from export.parity import golden_windows

BUDGET = Budget(cc=0.005, kld=0.005)
"""What int8 may lose unless told otherwise."""
RESULT = "calibration.json"
FLAVOURS: dict[Engine, Flavour] = {"onnxruntime": CPU, "tensorrt": TENSORRT}
CLOSER = (1.0, 0.8, 0.5)
"""Shares of the budget that the search is given in turn, should the graph as it ships still break it."""
Step = Callable[[str, int, int | None], None]
"""Told what is done, how many of it more, and of how many if that is known."""


@dataclass(frozen=True)
class Options:
    """How to calibrate. `thorough`: look for a faster mix even where all layers in int8 fit."""

    method: Method = "entropy"
    budget: Budget = BUDGET
    thorough: bool = False
    threads: int = 1
    cache: Path | None = None


@dataclass(frozen=True)
class Int8:
    """What came out for an engine: the graph that ships, or None, with what was found and why."""

    engine: Engine
    latency: str
    """"measured" or "modelled"."""
    choice: Choice
    model: onnx.ModelProto | None
    quality: Quality | None
    conditions: dict[str, object]

    def document(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        best = self.choice.best if self.model is not None else None
        return {
            "engine": self.engine,
            "ships": self.model is not None,
            "reason": self.choice.reason,
            "latency": self.latency,
            "conditions": self.conditions,
            "int8_layers": sorted(best.layers) if best else [],
            "quality": dataclasses.asdict(self.quality) if self.quality else None,
            "latency_ms": best.latency_ms if best else None,
            "float_ms": best.float_ms if best else None,
            "tried": [_tried(tried) for tried in self.choice.tried],
        }


def _tried(tried: Tried) -> dict[str, Any]:
    return {
        "int8_layers": sorted(tried.layers),
        **dataclasses.asdict(tried.quality),
        "budget_spent": tried.spent,
        "latency_ms": tried.latency_ms,
        "float_ms": tried.float_ms,
    }


@dataclass(frozen=True)
class Calibrated:
    """A float graph with its ranges and what came of them."""

    model: onnx.ModelProto
    ranges: Ranges
    int8: tuple[Int8, ...]
    doubts: tuple[str, ...]


def int8_graphs(
    model: onnx.ModelProto,
    feeding: Feeding,
    frames: CalibrationFrames,
    statistics: familiar.Statistics,
    options: Options,
    on_step: Step = lambda what, more, total: None,
) -> Calibrated:
    """Find ranges, and for each engine the fastest int8 graph that keeps the budget.

    Raises:
        InputError: activations or maps that are not finite.
    """
    on_step("ranges", 0, len(frames.windows))
    ranges = calibrate(
        model, feeding, frames, options.method, options.cache, lambda more: on_step("ranges", more, None)
    )
    doubt = familiar.doubt(familiar.shift(model, feeding, frames.windows, statistics))
    judge = Judge(model, feeding, frames.held_out, options.threads)
    made = tuple(_int8(engine, model, ranges, judge, options, on_step) for engine in FLAVOURS)
    return Calibrated(model, ranges, made, frames.doubts + ((doubt,) if doubt else ()))


def _int8(
    engine: Engine, model: onnx.ModelProto, ranges: Ranges, judge: Judge, options: Options, on_step: Step
) -> Int8:
    flavour, plain = FLAVOURS[engine], engine == "tensorrt"
    layers = quantisable(model, flavour)
    window = next(iter(judge.windows))
    timer = Modelled(model) if plain else Measured(model, judge.feeding, window, options.threads)
    conditions = timer.stated() if isinstance(timer, Modelled) else _machine(options.threads)

    def graph(only: Assignment) -> onnx.ModelProto:
        return quantise(model, ranges, flavour, only)

    what = f"int8 for {engine}"
    for share in CLOSER:
        on_step(what, 0, None)
        choice = choose(
            layers,
            lambda only: judge(graph(only), plain),
            lambda only: timer(graph(only)),
            _part(options.budget, share),
            options.thorough,
            on_tried=lambda more: on_step(what, more, None),
        )
        if choice.best is None:
            return Int8(engine, timer.kind, choice, None, None, conditions)
        shipped = graph(choice.best.layers)
        if plain:
            shipped = to_fp16(shipped, [*judge.feeding.inputs, *_floats(model, judge.feeding)])
        found = judge(shipped, plain)
        if options.budget.spent(found) <= 1:
            return Int8(engine, timer.kind, choice, shipped, found, conditions)
    reason = f"as it would ship, with the rest in fp16, int8 breaks the budget of {options.budget}"
    choice = dataclasses.replace(choice, best=None, reason=f"{reason}: float ships alone")
    return Int8(engine, timer.kind, choice, None, None, conditions)


def _part(budget: Budget, share: float) -> Budget:
    return Budget(budget.cc and budget.cc * share, budget.kld and budget.kld * share)


def _floats(model: onnx.ModelProto, feeding: Feeding) -> list[str]:
    """Return the outputs that stay float32 in an fp16 graph: all but states."""
    states = {state.output for state in feeding.states}
    return [output.name for output in model.graph.output if output.name not in states]


def _machine(threads: int) -> dict[str, object]:
    machine = this_machine()
    return {"cpu": machine.cpu, "threads": threads, "onnxruntime": ort.__version__}


def calibrate_graph(
    user: UserGraph,
    name: str,
    frames: CalibrationFrames,
    folder: Path,
    options: Options,
    dla: str,
    on_step: Step = lambda what, more, total: None,
) -> Calibrated:
    """Write a user's graph in fp32, fp16 and int8 with all that was found, whole or not at all.

    Raises:
        InputError: the folder cannot be written or holds other files; as `int8_graphs`.
    """
    made = int8_graphs(user.model, user.feeding, frames, user.statistics, options, on_step)
    with written_folder(folder, ours=ours_in_calibrated) as path, writing(folder):
        half = to_fp16(user.model, [*user.feeding.inputs, *_floats(user.model, user.feeding)])
        judged = Judge(user.model, user.feeding, frames.held_out, options.threads)(half)
        _save(user.model, path / "fp32.onnx")
        _save(half, path / "fp16.onnx")
        for found in made.int8:
            if found.model is not None:
                _save(found.model, path / f"int8.{found.engine}.onnx")
        (path / "dla.cache").write_text(cache_text(made.ranges, dla))
        document = {
            "schema": 1,
            "name": name,
            "input": dataclasses.asdict(user.image),
            "output": user.feeding.output,
            "calibrated": calibrated(frames, options),
            "doubts": made.doubts,
            "fp16": dataclasses.asdict(judged),
            "int8": [found.document() for found in made.int8],
            "ranges": made.ranges,
            "files": {
                file.name: {"sha256": sha256(file), "size_bytes": file.stat().st_size}
                for file in sorted(path.iterdir())
            },
        }
        (path / RESULT).write_text(json.dumps(document, indent=1) + "\n")
    return made


def ours_in_calibrated(entry: Path) -> bool:
    """Say whether an entry of a folder is part of what `calibrate_graph` wrote there."""
    names = {RESULT, "fp32.onnx", "fp16.onnx", "dla.cache", *(f"int8.{engine}.onnx" for engine in FLAVOURS)}
    return entry.name in names and (entry.parent / RESULT).is_file()


def calibrate_release(
    release: Release,
    frames: CalibrationFrames,
    folder: Path,
    options: Options,
    dla: str,
    on_step: Step = lambda what, more, total: None,
) -> dict[Form, Calibrated]:
    """Write a release whose int8 graphs are made anew; its float graphs and golden set stay.

    What int8 loses is told against the release's fp32 graphs, which were held to PyTorch.

    Raises:
        InputError: the folder cannot be written or holds other files; as `int8_graphs`.
    """
    found: dict[Form, Calibrated] = {}
    graphs = [graph for graph in release.graphs if graph.precision != "int8"]
    statistics = familiar.load(release.folder / familiar.STATISTICS)
    forms = [graph.form for graph in graphs if graph.precision == "fp32"]
    with written_folder(folder, ours=ours_in_release) as path, writing(folder):
        for name in (GOLDEN, familiar.STATISTICS, *(graph.file for graph in graphs)):
            if (release.folder / name).is_file():
                shutil.copyfile(release.folder / name, path / name)
        for form in forms:
            fp32 = next(g for g in graphs if (g.form, g.precision) == (form, "fp32"))
            model = onnx.load(release.path(fp32))
            feeding = feeding_of_release(release, form)
            made = found[form] = int8_graphs(
                model, feeding, frames, statistics if form == forms[0] else {}, options, on_step
            )
            (path / f"{form}.dla.cache").write_text(cache_text(made.ranges, dla))
            for one in made.int8:
                if one.model is None or one.quality is None:
                    continue
                file = f"{form}.int8.{one.engine}.onnx"
                _save(one.model, path / file)
                verified = _verified(release, feeding, one, frames, model, options.budget)
                graphs.append(Graph(file, form, "int8", one.engine, fp32.batch, verified))
        made_anew = dataclasses.replace(
            release,
            folder=path,
            graphs=tuple(graphs),
            calibrated={
                **calibrated(frames, options),
                "doubts": [d for form in forms for d in found[form].doubts],
                "int8": {form: [one.document() for one in found[form].int8] for form in forms},
            },
        )
        save(made_anew)
    return found


def feeding_of_release(release: Release, form: Form) -> Feeding:
    """Return how a release's graphs of a form are fed."""
    pair = form == "pair"
    return Feeding(
        release.preprocessing,
        release.inputs if pair else release.inputs[:1],
        release.output,
        () if pair else release.states,
        release.delay_frames > 0,
    )


def window_of(release: Release) -> int:
    """Return how many frames in a row a map of the release depends on.

    Raises:
        InputError: the release does not say.
    """
    window = (release.calibrated or {}).get("window")
    if not isinstance(window, int) or window < 1:
        raise InputError(
            f"release {release.name} does not say on how many frames a map depends; "
            "expected calibrated.window in release.json: export it again"
        )
    return window


def calibrated(frames: CalibrationFrames, options: Options) -> dict[str, Any]:
    """Return what ranges were made from and how, as plain values."""
    window = len(next(iter(frames.windows)))
    return {
        "method": options.method,
        "source": frames.source,
        "window": window,
        "windows": len(frames.windows),
        "held_out": len(frames.held_out),
        "apart": frames.apart,
        "frames_sha256": frames.sha256,
        "onnxruntime": ort.__version__,
        "budget": dataclasses.asdict(options.budget),
    }


def _verified(
    release: Release,
    feeding: Feeding,
    one: Int8,
    frames: CalibrationFrames,
    fp32: onnx.ModelProto,
    budget: Budget,
) -> Verified:
    assert one.model is not None
    assert one.quality is not None
    plain = one.engine == "tensorrt"
    judge = Judge(fp32, feeding, frames.held_out)
    errors = [max_error(a, b) for a, b in zip(judge.maps(one.model, plain), judge.expected, strict=True)]
    clip, expected = release.golden()
    windows = golden_windows(clip, release.preroll, release.delay_frames, window_of(release))
    session = open_session(one.model, plain=plain)
    maps = [feeding.result(session, window) for window in windows]
    least = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
    tolerance = budget.cc if budget.cc is not None else 1.0
    return Verified(len(errors), max(errors), one.quality.cc, one.quality.kld, tolerance, least)


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
