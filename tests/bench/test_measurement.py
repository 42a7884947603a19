"""Turns, verdicts, conditions and history of the benchmark."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edge.core.errors import InputError
from tests.bench.measurement.conditions import Conditions, ConditionsWatch
from tests.bench.measurement.history import Commit, History
from tests.bench.measurement.row import Benchmark, Contestant, Reading, Readings, Row, read_out, timed
from tests.bench.measurement.session import Plan, run_benchmarks
from tests.bench.measurement.turns import Measurement, measure_in_turns
from tests.bench.measurement.verdict import Verdict, is_decided, judge_reading, judge_row
from tests.support.clocks import ManualClock

BUSY = Conditions(cores=2, others_cores=1.2)
FLAT = {"ours": [1.0] * 40, "other": [5.0] * 40}
COMMIT = Commit("1a2b3c4d5e", False)


def _never(_: Measurement) -> bool:
    return False


def _sleeper(clock: ManualClock, seconds: float, log: list[str], name: str) -> Contestant:
    def take_turn(calls: int) -> float:
        log.append(name)
        clock.sleep(seconds * calls)
        return seconds

    return Contestant(take_turn)


def test_each_block_has_one_turn_of_each_contestant_in_an_order_that_varies() -> None:
    clock, log = ManualClock(), list[str]()
    contestants = {name: _sleeper(clock, 1.0, log, name) for name in "abc"}
    measure_in_turns(contestants, _never, 3 + 180, seed=1, clock=clock)
    blocks = ["".join(log[start : start + 3]) for start in range(3, len(log), 3)]  # after the warm-up
    assert all(sorted(block) == ["a", "b", "c"] for block in blocks)
    assert set(blocks) == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_turns_of_fast_and_slow_contestants_take_equally_long() -> None:
    clock, log = ManualClock(), list[str]()
    fast, slow = _sleeper(clock, 0.001, log, "fast"), _sleeper(clock, 0.04, log, "slow")
    measurement = measure_in_turns({"fast": fast, "slow": slow}, _never, 1, clock=clock)
    assert measurement.calls == {"fast": 40, "slow": 1}


def test_time_limit_ends_the_turns_and_a_block_that_is_cut_off_does_not_count() -> None:
    clock, log = ManualClock(), list[str]()
    contestants = {name: _sleeper(clock, 1.0, log, name) for name in "ab"}
    measurement = measure_in_turns(contestants, _never, 23, clock=clock)  # two of them for the warm-up
    assert sum(map(len, measurement.values.values())) == 21
    assert measurement.blocks == 10
    assert measurement.seconds == 23


def test_turns_end_when_the_bound_is_outside_of_a_narrow_interval() -> None:
    clock, log = ManualClock(), list[str]()
    contestants = {"ours": _sleeper(clock, 1.0, log, "ours"), "other": _sleeper(clock, 5.0, log, "other")}
    row = Row("speed-up", "other", "ours", bound=4)
    measurement = measure_in_turns(contestants, lambda m: is_decided(row, m), 1e6, clock=clock)
    assert 8 <= measurement.blocks < 30


def test_value_is_given_per_work() -> None:
    measurement = measure_in_turns({"a": Contestant(lambda _: 6.0, work=3)}, _never, 0)
    assert measurement.values == {"a": [2.0]}


def test_timed_contestant_does_not_time_the_first_of_several_calls() -> None:
    clock, pauses = ManualClock(), iter([100.0, 1, 2, 3, 50])
    contestant = timed(lambda: clock.sleep(next(pauses)), clock=clock)
    assert contestant.take_turn(3) == 2
    assert contestant.take_turn(1) == 50


@pytest.mark.parametrize(
    ("bound", "at_least", "answer"),
    [
        (4, True, "kept"),
        (6, True, "broken"),
        (5, True, "undecided"),
        (6, False, "kept"),
        (4, False, "broken"),
    ],
)
def test_verdict_of_a_ratio(bound: float, at_least: bool, answer: str) -> None:
    noisy = {"ours": [0.99, 1.01] * 20, "other": [5.0, 5.0] * 20}
    row = Row("speed-up", "other", "ours", bound=bound, at_least=at_least)
    assert judge_row(row, Measurement(noisy), Conditions()).answer == answer


def test_few_blocks_are_undecided() -> None:
    row = Row("speed-up", "other", "ours", bound=4)
    verdict = judge_row(row, Measurement({"ours": [1.0] * 5, "other": [5.0] * 5}), Conditions())
    assert verdict.describe() == "speed-up: 5 (too few values) x, at least 4: undecided"


def test_busy_machine_breaks_nothing_and_keeps_only_what_it_does_not_flatter() -> None:
    row = Row("speed-up", "other", "ours", bound=6)
    broken = judge_row(row, Measurement(FLAT), BUSY)
    assert broken.answer == "undecided"
    assert "it looks broken, but other processes used 1.2 of 2 cores" in broken.describe()
    assert judge_row(replace(row, bound=4), Measurement(FLAT), BUSY).answer == "kept"
    flattered = replace(row, bound=4, load_flatters=True)
    assert judge_row(flattered, Measurement(FLAT), BUSY).answer == "undecided"
    assert judge_row(flattered, Measurement(FLAT), Conditions()).answer == "kept"


def test_goal_is_reported_and_fails_nothing() -> None:
    verdict = judge_row(Row("share", "other", "ours", goal=6), Measurement(FLAT), Conditions())
    assert verdict.answer is None
    assert verdict.describe().endswith("x; goal at least 6: missed")


def test_value_that_was_measured_once_needs_a_distance_from_its_bound() -> None:
    assert judge_reading(Reading("export", 20, "s", 30, at_least=False), Conditions()).answer == "kept"
    assert judge_reading(Reading("export", 28, "s", 30, at_least=False), Conditions()).answer == "undecided"
    assert judge_reading(Reading("export", 40, "s", 30, at_least=False), Conditions()).answer == "broken"
    assert judge_reading(Reading("export", 40, "s", 30, at_least=False), BUSY).answer == "undecided"


def test_count_is_exact_whatever_the_load() -> None:
    left = Reading("files left", 1, "", 0, at_least=False, spread=0)
    assert judge_reading(left, BUSY).answer == "broken"
    assert judge_reading(replace(left, value=0), BUSY).describe() == "files left: 0, at most 0: kept"


def _write_stat(root: Path, user: int, steal: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {user} 0 0 0 0 0 0 {steal} 0 0\ncpu0 0\n")


def test_conditions_name_what_disturbs(tmp_path: Path) -> None:
    clock, probes, core_probes = ManualClock(), iter([0.001, 0.0012, 0.001]), iter([1.8, 1.1, 1.7])
    _write_stat(tmp_path, 0, 0)
    watch = ConditionsWatch(
        root=tmp_path, clock=clock, probe=lambda: next(probes), cores_probe=lambda: next(core_probes)
    )
    clock.advance(10)
    watch.sample()
    _write_stat(tmp_path, 0, 300)
    conditions = watch.conditions()
    assert conditions.speed_spread == pytest.approx(0.2)
    assert conditions.stolen_share == pytest.approx(0.3 / conditions.cores)
    assert conditions.cores_speed == 1.8
    quiet = replace(
        conditions,
        cores=2,
        others_cores=0,
        stolen_share=0,
        speed_spread=0.01,
        load_average=0.5,
        cores_speed=1.7,
    )
    assert quiet.disturbance == ""
    assert quiet.describe().startswith("quiet machine: other processes used 0.0 of ")
    assert replace(quiet, stolen_share=0.1).disturbance == "the host took 10% of the cores' time"
    drifting = replace(quiet, speed_spread=0.4)
    assert drifting.disturbance == "the speed of the processor varied by 40%"
    assert drifting.load == ""
    assert replace(quiet, cores_speed=1.1).load == "all 2 cores together were 1.1 times as fast as one"
    assert replace(quiet, cores=1, cores_speed=1.0).disturbance == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_that_are_one_physical_core_are_no_faster_than_one() -> None:
    code = (
        "import os; from edge.hardware.host import detect_machine; detect_machine();"
        "from tests.bench.measurement.conditions import ConditionsWatch;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "print(ConditionsWatch().conditions().cores_speed)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.3


def test_conditions_that_are_not_readable_disturb_nothing(tmp_path: Path) -> None:
    conditions = ConditionsWatch(root=tmp_path, probe=lambda: 0.001, cores_probe=lambda: 1e3).conditions()
    assert (conditions.others_cores, conditions.stolen_share, conditions.disturbance) == (None, None, "")


def _verdict(low: float, high: float, at_least: bool = True) -> Verdict:
    return Verdict("share", (low + high) / 2, low, high, "%", None, at_least)


def test_history_shows_a_regression_against_the_latest_undisturbed_run(tmp_path: Path) -> None:
    quiet = Conditions(cores=2)
    History(tmp_path).append(COMMIT, "students", [_verdict(70, 72)], quiet)
    History(tmp_path).append(Commit("ffff", True), "students", [_verdict(20, 30)], BUSY)
    with History(tmp_path).path.open("a") as file:
        file.write('{"time": "2026-')  # a kill cut it off
    history = History(tmp_path)
    assert history.compare("students", _verdict(60, 65), quiet) == "WORSE than 70 to 72 at 1a2b3c4d5e"
    assert history.compare("students", _verdict(80, 81), quiet) == "better than 70 to 72 at 1a2b3c4d5e"
    assert history.compare("students", _verdict(80, 81, at_least=False), quiet).startswith("WORSE")
    assert history.compare("students", _verdict(71, 75), quiet) == ""
    assert history.compare("students", _verdict(60, 65), BUSY) == ""
    assert history.compare("engines", _verdict(60, 65), quiet) == ""


@contextmanager
def _open_flat(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    yield {"ours": read_out(lambda: 1.0), "other": read_out(lambda: 5.0)}


@contextmanager
def _open_nothing(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    raise InputError("no camera: connect one")
    yield {}


def test_session_prints_verdicts_with_time_and_conditions_and_saves_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("speed-up", "other", "ours", bound=4)
    plan: Plan = {
        "engines": [Benchmark("flat", 20, (row,), _open_flat), Benchmark("camera", 5, (row,), _open_nothing)],
        "export": [Readings("files", 65, lambda _: iter([Reading("size", 2, "MB", spread=0)]))],
    }
    history = History(tmp_path)
    verdicts = run_benchmarks(plan, COMMIT, history)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "engines: flat (at most 20 s, all: at most 1 min 30 s left)"
    assert lines[1].startswith("  speed-up: 5 (5 to 5) x, at least 4: kept")
    assert "blocks in " in lines[2]
    assert " machine: " in lines[2]
    assert lines[3:5] == [
        "engines: camera (at most 5 s, all: at most 1 min 10 s left)",
        "  not measured: no camera: connect one",
    ]
    assert lines[6] == "  size: 2 MB"
    assert Counter(verdict.label for each in verdicts.values() for verdict in each) == {
        "speed-up": 1,
        "size": 1,
    }
    assert len(history.path.read_text().splitlines()) == 2


@pytest.mark.parametrize(("second", "answer"), [(5.0, "undecided"), (2.0, "broken")])
def test_row_that_looks_broken_is_measured_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    second: float,
    answer: str,
) -> None:
    monkeypatch.setattr(ConditionsWatch, "conditions", lambda _: Conditions(cores=2))
    speeds = iter([2.0, second])

    @contextmanager
    def open_at_a_speed(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
        speed = next(speeds)
        yield {"ours": read_out(lambda: 1.0), "other": read_out(lambda: speed)}

    rows = (Row("speed-up", "other", "ours", bound=4), Row("time", "ours", bound=2, at_least=False))
    plan: Plan = {"engines": [Benchmark("two", 20, rows, open_at_a_speed)]}
    history = History(tmp_path)
    verdicts = run_benchmarks(plan, COMMIT, history)["engines"]
    assert [each.answer for each in verdicts] == [answer, "kept"]
    assert verdicts[0].value == pytest.approx(second)
    out = capsys.readouterr().out
    assert "again, engines: two (at most 20 s, all: at most 20 s left)" in out
    if answer == "undecided":
        assert verdicts[0].describe().endswith("undecided, it looked broken at first, with 2 to 2")
    assert len(history.path.read_text().splitlines()) == 4


def test_infinite_ends_are_null_in_json() -> None:
    document = Verdict("a", 1, -math.inf, math.inf, "s", 2, False).to_document()
    assert (document["low"], document["high"]) == (None, None)
