from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.hardware import energy_meters
from edge.hardware.board import read_board_facts
from edge.profiler import session
from edge.profiler.measurement import conditions
from edge.profiler.measurement.candidate import Candidate, ProfiledRunner, find_candidates
from edge.profiler.measurement.energy import measure_energy, measure_idle_power
from edge.profiler.measurement.sampler import CALLS_PER_TURN, CandidateMeasurement, NullRunner
from edge.profiler.report.table import alarms, notes
from edge.profiler.session import ProfileSettings, compare_with_fp32, profile_release
from edge.release.manifest import load_release
from tests.support.clocks import ManualClock, SteppingClock
from tests.support.sensor_trees import ORIN_FILES, write_tree

SETTINGS = ProfileSettings(threads=1, energy_s=0, clock_ns=SteppingClock(1_000_000))
"""Settings under which each call takes 1 ms, on any machine."""


def test_interruption_keeps_the_complete_rounds() -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    turns = 0

    def interrupt(calls: int, total: int) -> None:
        nonlocal turns
        turns += 1
        if turns == 5:  # in the middle of the third round
            raise KeyboardInterrupt

    document = profile_release(release, candidates, SETTINGS, on_turn=interrupt)
    assert document["interrupted"]
    assert [row["runs"] for row in document["latencies"]] == [2 * CALLS_PER_TURN] * 2
    assert [row["accuracy"] for row in document["latencies"]] == [None, None]


def test_verdict_is_undecided_after_two_rounds() -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    document = profile_release(release, candidates, replace(SETTINGS, runs=40))
    assert [row["runs"] for row in document["latencies"]] == [40, 40]
    assert [comparison["verdict"] for comparison in document["against"]] == ["undecided"]
    assert any("too few turns to tell" in line for line in notes(document))


def test_minimum_time_raises_the_number_of_runs() -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    totals: set[int] = set()
    document = profile_release(
        release,
        candidates,
        replace(SETTINGS, runs=40, min_time_s=0.3),
        on_turn=lambda calls, total: totals.add(total),
    )
    assert [row["runs"] for row in document["latencies"]] == [300, 300]  # of 1 ms each
    assert totals == {600}
    assert [sum(map(sum, row["times_ms"])) for row in document["latencies"]] == pytest.approx([300, 300])


@pytest.mark.parametrize(("max_time_s", "runs"), [(60.0, 300), (0.3, 140), (0.01, 100)])
def test_maximum_time_lowers_the_number_of_runs_to_five_rounds_at_least(max_time_s: float, runs: int) -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    document = profile_release(release, candidates, replace(SETTINGS, runs=300, max_time_s=max_time_s))
    assert [row["runs"] for row in document["latencies"]] == [runs, runs]  # of 1 ms each
    assert any("p99 and p99.9 may be too low" in line for line in notes(document)) == (runs < 300)


def test_board_that_throttles_all_the_time_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(step_s=0.002)
    monkeypatch.setattr(energy_meters, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(session, "measure_energy", partial(measure_energy, now=clock))
    idle_power = partial(measure_idle_power, now=clock, sleep=clock.sleep)
    monkeypatch.setattr(session, "measure_idle_power", idle_power)
    throttling = {**ORIN_FILES, "sys/class/thermal/cooling_device1/cur_state": "2"}
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["int8"], "stream", threads=1)
    settings = replace(SETTINGS, energy_s=0.3, root=write_tree(tmp_path, throttling))
    document = profile_release(release, candidates, settings)
    assert document["conditions"]["throttled"] == ["cpu-throttle-alert"]
    assert document["conditions"]["temperatures_c"]["highest"]["tj-thermal"] == 52
    energy = document["latencies"][0]["energy"]
    assert energy["power_w"] == pytest.approx(7.0, rel=0.05)  # the tree's power at any load
    assert energy["joules_per_frame"] == pytest.approx(0, abs=1e-3)  # the idle power is the same


def test_throttling_and_power_mode_that_change_during_the_measurement_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "SAMPLE_PERIOD_S", 0.0)
    trip, mode = "sys/class/hwmon/hwmon2/oc1_event_cnt", "var/lib/nvpmodel/status"
    modes = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n"
    root = write_tree(tmp_path, {**ORIN_FILES, "etc/nvpmodel.conf": modes, mode: "pmode:0000"})
    assert read_board_facts(root).power_mode_name == "MAXN"
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["int8"], "stream", threads=1)
    turns = 0

    def change_board(calls: int, total: int) -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            (root / trip).write_text("3")
            (root / mode).write_text("pmode:0001")

    settings = replace(SETTINGS, runs=200, root=root)
    document = profile_release(release, candidates, settings, on_turn=change_board)
    conditions_document = document["conditions"]
    assert conditions_document["throttled"] == ["too much current (oc1)"]
    points = [point["throttled"] for point in conditions_document["timeline"] if point["throttled"]]
    assert points == [["too much current (oc1)"]], "once: when it was counted"
    assert "POWER MODE changed during the measurement: MAXN, then 15W." in alarms(document)
    assert not any("power mode changed" in line.lower() for line in notes(document))


def test_engine_that_fails_after_the_latency_loses_nothing_else() -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)

    def fail(trace: Path) -> ProfiledRunner:
        raise InputError("no profiler today")

    candidates = [replace(candidates[0], open_profiled=fail), candidates[1]]
    document = profile_release(release, candidates, replace(SETTINGS, runs=40, layers=True))
    assert [row["runs"] for row in document["latencies"]] == [40, 40]
    assert list(document["layers"]) == ["int8"]
    assert document["left_out"] == ["accuracy, GPU times and layers of fp32: no profiler today"]


@pytest.mark.parametrize(("runs", "warm_up"), [(0, 0), (1, -1)])
def test_impossible_number_of_runs_is_refused(runs: int, warm_up: int) -> None:
    with pytest.raises(InputError, match="expected at least 1 run after 0"):
        profile_release(load_release("skd-64"), [], ProfileSettings(runs=runs, warm_up=warm_up))


def measurement(precision: str, ms: float, batch: int = 1) -> CandidateMeasurement:
    """Return 15 rounds of calls that take about `ms`."""
    noise = np.random.default_rng(len(precision)).normal(1, 0.01, (15, 20))
    candidate = Candidate(precision, "pair", batch, NullRunner, 0)
    return CandidateMeasurement(candidate, times_ms=ms * noise)


def test_rows_are_compared_with_fp32_of_their_batch_or_else_with_pytorch() -> None:
    def comparisons(*measurements: CandidateMeasurement) -> list[tuple[str, str, str]]:
        return [
            (comparison["name"], comparison["base"], comparison["verdict"])
            for comparison in compare_with_fp32(measurements)
        ]

    int8, torch = measurement("int8", 1.0), measurement("torch fp32", 3.0)
    assert comparisons(int8, torch) == [("int8", "torch fp32", "faster")]
    assert comparisons(int8, measurement("fp32", 0.5), torch) == [
        ("int8", "fp32", "slower"),
        ("torch fp32", "fp32", "slower"),
    ]
    assert comparisons(int8, measurement("fp32", 0.5, batch=8)) == []


def test_only_a_large_difference_from_fp32_counts_on_a_busy_machine() -> None:
    def verdicts(fp32_ms: float, busy: bool) -> str:
        pair = [measurement("int8", 1.0), measurement("fp32", fp32_ms)]
        return str(compare_with_fp32(pair, busy)[0]["verdict"])

    assert [verdicts(ms, busy=False) for ms in (1.0, 1.05, 2.0)] == ["no difference", "faster", "faster"]
    assert [verdicts(ms, busy=True) for ms in (1.0, 1.05, 2.0)] == ["undecided", "undecided", "faster"]
