"""A whole measurement, from contenders to the document that is printed, kept and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.hardware.board import read_facts
from edge.hardware.energy_meters import Meter, find_meter
from edge.hardware.host import this_machine
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors
from edge.inference.interface.runner import Runner
from edge.profiler.measurement import conditions, stages, statistics
from edge.profiler.measurement import sampler as measure
from edge.profiler.measurement.accuracy import FixationTruth, accuracy
from edge.profiler.measurement.candidate import Candidate, InputFeed, golden_feeds
from edge.profiler.measurement.document import SCHEMA, Document
from edge.profiler.measurement.energy import energy, idle_w
from edge.profiler.measurement.layers import layers_of
from edge.profiler.measurement.layers import summarise as summarise_layers
from edge.profiler.measurement.sampler import CandidateMeasurement
from edge.release.manifest import Release


@dataclass(frozen=True)
class ProfileSettings:
    """How to measure. `runs` of each contender are rounded up to whole turns, and are more where those of the
    slowest take less than `least_s` seconds.

    `energy_s`: how long each contender is kept busy to see what it takes, and the machine idle; 0: not.
    `frame`: width and height of the frames that preprocessing starts from. `root`: of the files that tell of
    the machine; another folder in tests.
    """

    runs: int = 300
    least_s: float = 0.0
    warm_up: int = 50
    threads: int | None = None
    frame: tuple[int, int] = stages.FRAME
    energy_s: float = 3.0
    layers: bool = False
    protocol: str = "aerogaze"
    root: Path = Path("/")


def profile(
    release: Release,
    contenders: Sequence[Candidate],
    settings: ProfileSettings,
    left_out: Sequence[str] = (),
    truth: FixationTruth | None = None,
    on_turn: Callable[[int, int], None] = lambda runs, of: None,
) -> Document:
    """Measure contenders and return the document, as docs/profile.md describes it.

    `on_turn`: told of runs, and of how many all contenders will have. Ctrl-C while runs are measured ends the
    measuring: what was measured by then is returned, and `interrupted` says so.

    Raises:
        InputError: too few runs are asked for, or an engine refuses.
        KeyboardInterrupt: before anything was measured.
    """
    if settings.runs < 1 or settings.warm_up < 0:
        raise InputError(
            f"cannot measure {settings.runs} runs after {settings.warm_up}; expected at least 1 after 0"
        )
    nvml = Nvml.open()
    watch = conditions.SensorRecorder(Sensors(settings.root, nvml))
    machine = conditions.machine_document(settings.root)
    feeds = [golden_feeds(release, one.form, one.batch) for one in contenders]
    extra: list[Document] = [{} for _ in contenders]

    with measure.opened(contenders, feeds) as found:
        turn, slowest_ms = measure.turn_of(found, feeds), 0.0
        for (seen, runner), own in zip(found, feeds, strict=True):
            slowest_ms = max(slowest_ms, measure.warm_up(seen, runner, own, settings.warm_up, turn))
            watch.look()
        rounds = math.ceil(max(settings.runs, settings.least_s * 1e3 / slowest_ms) / turn)

        def between(runs: int) -> None:
            on_turn(runs, rounds * turn * len(found))
            watch.look()

        whole = measure.take_turns(found, feeds, rounds, turn, between)
        watch.look(always=True)
        try:
            if whole:
                _measure_energy(found, feeds, settings, nvml, extra)
        except KeyboardInterrupt:
            whole = False
    start_s = watch.readings[0].t_s
    rows = [_row(seen, more, start_s) for (seen, _), more in zip(found, extra, strict=True)]
    around: dict[str, float] = {}
    layers: dict[str, Document] = {}
    silent: list[str] = []
    try:
        if whole:
            around = stages.pre_and_post_ms(release, settings.frame)
            layers, silent = _look_closer(release, contenders, feeds, rows, settings, truth)
    except KeyboardInterrupt:
        whole = False
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "release": release.name,
        "student": dict(release.student),
        "graphs_sha256": {c.name: sha256(c.graph) for c in contenders if c.graph},
        "protocol": settings.protocol,
        "input": {"width": release.preprocessing.width, "height": release.preprocessing.height},
        "threads": settings.threads or this_machine().cores,
        "interrupted": not whole,
        "left_out": [*left_out, *silent],
        "machine": machine,
        "versions": conditions.versions_document(),
        "conditions": {**watch.document(), "power_mode_after": read_facts(settings.root).power_mode_name},
        "overhead_us": measure.overhead_us(),
        "stages": {**around, "frame": list(settings.frame)} if around else {},
        "latencies": rows,
        "against": _against(found),
        "layers": layers,
    }


def _row(seen: CandidateMeasurement, more: Document, start_s: float) -> Document:
    contender, times = seen.contender, seen.times_ms
    numbers = statistics.summarise(times)
    return {
        "name": contender.name,
        "precision": contender.precision,
        "form": contender.form,
        "batch": contender.batch,
        "engine": seen.engine,
        "emulated": contender.emulated,
        "size_bytes": contender.size_bytes,
        "load_ms": seen.load_ms,
        "first_call_ms": seen.first_call_ms,
        "rss_growth_bytes": seen.rss_growth_bytes,
        "rss_peak_bytes": seen.rss_peak_bytes,
        "gpu_bytes": seen.gpu_bytes,
        "warm_up": seen.warm_up,
        "steady": seen.steady,
        "drift": statistics.drift(times),
        "runs": int(times.size),
        **numbers,
        "fps": contender.batch * 1e3 / numbers["mean_ms"],
        "intervals": statistics.intervals(times),
        "energy": None,
        "energy_why": "not asked for",
        "accuracy": None,
        "gpu": None,
        "gpu_why": "" if contender.open_timed else f"no GPU of ours: {seen.engine}",
        **more,
        "turns_at_s": [round(at - start_s, 3) for at in seen.turns_at_s],
        "times_ms": [[round(value, 5) for value in turn] for turn in times.tolist()],
    }


def _measure_energy(
    found: Sequence[tuple[CandidateMeasurement, Runner]],
    feeds: Sequence[Sequence[InputFeed]],
    settings: ProfileSettings,
    nvml: Nvml | None,
    extra: Sequence[Document],
) -> None:
    """Fill in each row's energy, or why there is none."""
    meter: Meter | str = find_meter(settings.root, nvml) if settings.energy_s > 0 else "not asked for"
    try:
        if isinstance(meter, str):
            raise OSError(meter)
        idle = idle_w(meter, settings.energy_s)
        for (seen, runner), own, more in zip(found, feeds, extra, strict=True):
            used = energy(meter, idle, runner, own, seen.contender.batch, settings.energy_s)
            more.update(energy={**asdict(used), "meter": meter.description}, energy_why="")
    except (OSError, ValueError) as error:
        for more in extra:
            if "energy" not in more:
                more["energy_why"] = str(error)


def _look_closer(
    release: Release,
    contenders: Sequence[Candidate],
    feeds: Sequence[Sequence[InputFeed]],
    rows: Sequence[Document],
    settings: ProfileSettings,
    truth: FixationTruth | None,
) -> tuple[dict[str, Document], list[str]]:
    """Fill in each row's accuracy and times on the GPU.

    Returns the layers, if they are asked for, and what an engine refused: its latency was measured.
    """
    layers: dict[str, Document] = {}
    refused = []
    for contender, own, row in zip(contenders, feeds, rows, strict=True):
        try:
            row["accuracy"] = accuracy(release, contender, truth)
            row["gpu"] = stages.gpu_ms(contender, own)
            if settings.layers and (timed := layers_of(contender, own)):
                layers[contender.name] = {
                    "layers": [asdict(layer) for layer in timed],
                    **summarise_layers(timed),
                }
        except InputError as error:  # noqa: PERF203 - a few
            refused.append(f"a closer look at {contender.name}: {error}")
            row["gpu_why"] = row["gpu_why"] or str(error)
    return layers, refused


def _against(found: Sequence[tuple[CandidateMeasurement, Runner]]) -> list[Document]:
    """Hold each contender to fp32 with its batch, within this run; where there is none, to PyTorch's."""
    said = []
    for seen, _ in found:
        batch = seen.contender.batch
        alike = [other for other, _ in found if other.contender.batch == batch]
        bases = (o for name in ("fp32", "torch fp32") for o in alike if o.contender.precision == name)
        base = next(bases, None)
        if base is not None and base is not seen:
            verdict = statistics.compare(base.times_ms, seen.times_ms, together=True)
            said.append({"name": seen.contender.name, "base": base.contender.name, **verdict._asdict()})
    return said
