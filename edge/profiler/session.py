"""Profile of a release: from its candidates to the document that is printed, saved and compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.hardware.board import read_board_facts
from edge.hardware.energy_meters import EnergyMeter, find_energy_meter
from edge.hardware.host import detect_machine
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors
from edge.profiler.measurement import conditions, sampler, statistics
from edge.profiler.measurement.accuracy import FixationTruth, measure_accuracy
from edge.profiler.measurement.candidate import Candidate, golden_feeds
from edge.profiler.measurement.document import SCHEMA, Document
from edge.profiler.measurement.energy import measure_energy, measure_idle_power
from edge.profiler.measurement.layers import profile_layers
from edge.profiler.measurement.machine_load import OtherLoad, describe_busy_machine
from edge.profiler.measurement.sampler import CandidateMeasurement, OpenCandidate
from edge.profiler.measurement.stages import (
    DEFAULT_FRAME_SIZE,
    time_gpu_stages,
    time_pre_and_postprocessing,
)
from edge.release.manifest import RELEASE_MANIFEST
from edge.release.release import Release

if TYPE_CHECKING:  # imports ONNX Runtime, which the help does not need
    from edge.profiler.roofline.machine_peak import MachinePeak

BUSY_MARGIN = 0.1
"""Least relative difference from fp32 that counts on a busy machine."""


@dataclass(frozen=True)
class ProfileSettings:
    """Settings of a profile.

    Attributes:
        runs: Calls to measure of each candidate, rounded up to whole turns.
        min_time_s: Time that the calls of the slowest candidate take at least; it raises `runs`.
        max_time_s: Time that the calls of all candidates take at most; it lowers `runs`, to `MIN_ROUNDS`
            turns at least.
        warm_up: Calls of each candidate's warm-up at least; None for `MIN_WARM_UP_TURNS` turns.
        threads: Threads of the engines; None for one per core.
        frame_size: Width and height of the frames that preprocessing is timed with.
        energy_s: Time that each candidate is kept busy, and the machine idle, to measure energy; 0 for none.
        layers: Time each layer.
        protocol: Name of the protocol, for the document.
        root: Root of the files that describe the machine; another folder in tests.
        clock_ns: Clock that latencies are read from; another one in tests.
    """

    runs: int = 300
    min_time_s: float = 0.0
    max_time_s: float = math.inf
    warm_up: int | None = None
    threads: int | None = None
    frame_size: tuple[int, int] = DEFAULT_FRAME_SIZE
    energy_s: float = 3.0
    layers: bool = False
    protocol: str = "aerogaze"
    root: Path = Path("/")
    clock_ns: sampler.ClockNs = time.perf_counter_ns


OnTurn = Callable[[int, int], None]
"""Called after each turn with its calls, and with the calls of all candidates in all."""
OnStep = Callable[[str], None]
"""Called with the name of each step when it begins."""


def profile_release(
    release: Release,
    candidates: Sequence[Candidate],
    settings: ProfileSettings,
    left_out: Sequence[str] = (),
    truth: FixationTruth | None = None,
    on_turn: OnTurn = lambda calls, total: None,
    on_step: OnStep = lambda step: None,
) -> Document:
    """Measure the candidates and return the document, which docs/reference/profile.md describes.

    Ctrl-C during the measurement ends it: the document then has what was measured, and says `interrupted`.

    Args:
        release: The release that the candidates belong to.
        candidates: The candidates.
        settings: Settings of the profile.
        left_out: Reasons why other candidates are not measured, for the document.
        truth: Recorded fixations, for NSS.
        on_turn: Called after each turn.
        on_step: Called when a step begins.

    Raises:
        InputError: The settings ask for too few runs, or a candidate cannot be opened.
        KeyboardInterrupt: Ctrl-C came before the first round was complete.
    """
    if settings.runs < 1 or (settings.warm_up or 0) < 0:
        raise InputError(
            f"cannot measure {settings.runs} runs after a warm-up of {settings.warm_up}; expected at least 1 "
            "run after 0"
        )
    return _Profile(release, candidates, settings, truth, on_step).measure(left_out, on_turn)


class _Profile:
    """One run of the profiler; `interrupted` once Ctrl-C has ended it."""

    def __init__(
        self,
        release: Release,
        candidates: Sequence[Candidate],
        settings: ProfileSettings,
        truth: FixationTruth | None,
        on_step: OnStep,
    ) -> None:
        self._release, self._candidates, self._settings, self._truth = release, candidates, settings, truth
        self._on_step = on_step
        self._nvml = Nvml.open()
        self._recorder = conditions.SensorRecorder(Sensors(settings.root, self._nvml))
        self._machine = conditions.describe_machine(settings.root)
        self._feeds = [golden_feeds(release, candidate.form, candidate.batch) for candidate in candidates]
        self._other_load = OtherLoad(settings.root)
        self._others_cores: float | None = None
        self._interrupted = False
        self._measured_peak: MachinePeak | None = None

    def measure(self, left_out: Sequence[str], on_turn: OnTurn) -> Document:
        """Measure latency and energy, then what needs runners of its own, and return the document."""
        self._on_step("opening")
        with sampler.open_candidates(self._candidates, self._feeds) as opened:
            self._measure_latency(opened, on_turn)
            energy = self._measure_energy(opened)
        # What follows opens runners of its own, after those of the latency are closed.
        measurements = [measurement for measurement, _ in opened]
        start_s = self._recorder.readings[0].t_s
        rows = [
            {**_row(measurement, start_s), **values}
            for measurement, values in zip(measurements, energy, strict=True)
        ]
        stages: dict[str, float] = {}
        layers: dict[str, Document] = {}
        refused: list[str] = []
        if not self._interrupted:
            try:
                stages = time_pre_and_postprocessing(self._release, self._settings.frame_size)
                layers, refused = self._examine(rows)
            except KeyboardInterrupt:
                self._interrupted = True
        header = self._header([*left_out, *refused])
        return {
            **header,
            "overhead_us": sampler.measure_overhead(self._settings.clock_ns),
            "stages": {**stages, "frame": list(self._settings.frame_size)} if stages else {},
            "latencies": rows,
            "against": compare_with_fp32(measurements, busy=bool(describe_busy_machine(header))),
            "layers": layers,
        }

    def _measure_latency(self, opened: Sequence[OpenCandidate], on_turn: OnTurn) -> None:
        settings, clock_ns, recorder = self._settings, self._settings.clock_ns, self._recorder
        calls_per_turn = sampler.choose_calls_per_turn(opened, self._feeds, clock_ns)
        warm_ms = []
        for candidate, feeds in zip(opened, self._feeds, strict=True):
            self._on_step(f"warm-up of {candidate[0].candidate.name}")
            warm_ms.append(sampler.warm_up(candidate, feeds, settings.warm_up, calls_per_turn, clock_ns))
            recorder.sample()
        rounds = _choose_rounds(settings, warm_ms, calls_per_turn)
        self._on_step("measurement")

        def after_turn(calls: int) -> None:
            on_turn(calls, rounds * calls_per_turn * len(opened))
            recorder.sample()

        is_complete = sampler.measure_rounds(
            opened, self._feeds, rounds, calls_per_turn, after_turn, clock_ns
        )
        self._interrupted = not is_complete
        recorder.sample(force=True)
        self._others_cores = self._other_load.cores()

    def _measure_energy(self, opened: Sequence[OpenCandidate]) -> list[Document]:
        """Return each row's energy, or the reason why there is none."""
        values: list[Document] = [{} for _ in opened]
        if self._interrupted:
            return values
        seconds = self._settings.energy_s
        meter: EnergyMeter | str = (
            find_energy_meter(self._settings.root, self._nvml) if seconds > 0 else "not asked for"
        )
        try:
            if isinstance(meter, str):
                raise OSError(meter)
            self._on_step("energy")
            idle_w = measure_idle_power(meter, seconds)
            for index, (measurement, runner) in enumerate(opened):
                batch = measurement.candidate.batch
                energy = measure_energy(meter, idle_w, runner, self._feeds[index], batch, seconds)
                values[index] = {
                    "energy": {**asdict(energy), "meter": meter.description},
                    "energy_why": "",
                }
        except (OSError, ValueError) as error:
            for row_values in values:
                row_values.setdefault("energy_why", str(error))
        except KeyboardInterrupt:
            self._interrupted = True
        return values

    def _examine(self, rows: Sequence[Document]) -> tuple[dict[str, Document], list[str]]:
        """Add the accuracy and the times on the GPU to each row.

        Returns:
            The layers by row, if they are asked for, and what an engine refused; its latency is kept.
        """
        layers: dict[str, Document] = {}
        refused = []
        for candidate, feeds, row in zip(self._candidates, self._feeds, rows, strict=True):
            self._on_step(f"accuracy{' and layers' * self._settings.layers} of {candidate.name}")
            try:
                row["accuracy"] = measure_accuracy(self._release, candidate, self._truth)
                row["gpu"] = time_gpu_stages(candidate, feeds)
                if self._settings.layers and (
                    profile := profile_layers(candidate, feeds, self._peak(candidate))
                ):
                    layers[candidate.name] = profile
            except InputError as error:
                refused.append(f"accuracy, GPU times and layers of {candidate.name}: {error}")
                row["gpu_why"] = row["gpu_why"] or str(error)
        return layers, refused

    def _peak(self, candidate: Candidate) -> MachinePeak | str:
        """Return the peak that the layers of a candidate are compared with, or why there is none."""
        if candidate.static:
            return "no share of the peak: the peak of a GPU is not measured"
        if candidate.emulated:
            return "no share of the peak: emulated layers compute in another precision than the graph's"
        if self._measured_peak is None:
            from edge.profiler.roofline.machine_peak import measure_peak

            self._measured_peak = measure_peak(self._settings.threads or detect_machine().cores)
        return self._measured_peak

    def _header(self, left_out: list[str]) -> Document:
        """Return the part of the document that says what was measured, and in which conditions."""
        release, settings = self._release, self._settings
        preprocessing = release.preprocessing
        return {
            "schema": SCHEMA,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "release": release.name,
            "release_sha256": sha256(release.folder / RELEASE_MANIFEST),
            "student": dict(release.student),
            "graphs_sha256": {c.name: sha256(c.graph) for c in self._candidates if c.graph},
            "protocol": settings.protocol,
            "input": {"width": preprocessing.width, "height": preprocessing.height},
            "threads": settings.threads or detect_machine().cores,
            "interrupted": self._interrupted,
            "left_out": left_out,
            "machine": self._machine,
            "versions": conditions.package_versions(),
            "conditions": {
                **self._recorder.to_document(),
                "others_cores": None if self._others_cores is None else round(self._others_cores, 3),
                "power_mode_after": read_board_facts(settings.root).power_mode_name,
            },
        }


def _choose_rounds(settings: ProfileSettings, call_ms: Sequence[float], calls_per_turn: int) -> int:
    """Return the number of rounds.

    Args:
        settings: The wanted runs, and the limits of time.
        call_ms: Latency of each candidate.
        calls_per_turn: Measured calls per turn; one more is not measured.
    """
    rounds = math.ceil(max(settings.runs, settings.min_time_s * 1e3 / max(call_ms)) / calls_per_turn)
    round_s = sum(call_ms) * (calls_per_turn + 1) / 1e3
    if rounds * round_s <= settings.max_time_s:
        return rounds
    return min(rounds, max(statistics.MIN_ROUNDS, int(settings.max_time_s / round_s)))


def _row(measurement: CandidateMeasurement, start_s: float) -> Document:
    candidate, times = measurement.candidate, measurement.times_ms
    summary = statistics.summarize_times(times)
    return {
        "name": candidate.name,
        "precision": candidate.precision,
        "form": candidate.form,
        "batch": candidate.batch,
        "engine": measurement.engine,
        "emulated": candidate.emulated,
        "size_bytes": candidate.size_bytes,
        "load_ms": measurement.load_ms,
        "first_call_ms": measurement.first_call_ms,
        "rss_growth_bytes": measurement.rss_growth_bytes,
        "rss_peak_bytes": measurement.rss_peak_bytes,
        "gpu_bytes": measurement.gpu_bytes,
        "warm_up": measurement.warm_up,
        "steady": measurement.steady,
        "drift": statistics.relative_drift(times),
        "runs": int(times.size),
        **summary,
        "fps": candidate.batch * 1e3 / summary["mean_ms"],
        "intervals": statistics.bootstrap_intervals(times),
        "energy": None,
        "energy_why": "not asked for",
        "accuracy": None,
        "gpu": None,
        "gpu_why": "" if candidate.open_timed else f"not timed on a GPU: {measurement.engine}",
        "turns_at_s": [round(at_s - start_s, 3) for at_s in measurement.turns_at_s],
        "times_ms": [[round(ms, 5) for ms in turn] for turn in times.tolist()],
    }


def compare_with_fp32(measurements: Sequence[CandidateMeasurement], busy: bool = False) -> list[Document]:
    """Compare each candidate with fp32 at its batch size in the same run, or else with PyTorch's fp32.

    The candidates take turns, so that other processes slow down all of them. On a busy machine only a large
    difference counts, and nothing is "no difference".
    """
    comparisons = []
    for measurement in measurements:
        batch = measurement.candidate.batch
        same_batch = [other for other in measurements if other.candidate.batch == batch]
        baselines = (
            other
            for precision in ("fp32", "torch fp32")
            for other in same_batch
            if other.candidate.precision == precision
        )
        baseline = next(baselines, None)
        if baseline is not None and baseline is not measurement:
            margin = BUSY_MARGIN if busy else 0.0
            verdict = statistics.compare_medians(
                baseline.times_ms, measurement.times_ms, margin, together=True
            )
            if busy and verdict.verdict == "no difference":
                verdict = verdict._replace(verdict="undecided")
            comparisons.append(
                {
                    "name": measurement.candidate.name,
                    "base": baseline.candidate.name,
                    **verdict._asdict(),
                }
            )
    return comparisons
