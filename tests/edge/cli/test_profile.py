from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.hardware.board import read_facts
from edge.profiler.measurement import sampler as measure
from edge.profiler.measurement.candidate import ProfiledRunner, find_candidates, golden_feeds
from edge.profiler.report.table import notes
from edge.profiler.session import ProfileSettings
from edge.profiler.session import profile as measured
from edge.release.manifest import load_release
from tests.conftest import Outcome
from tests.edge.hardware.test_sensors import ORIN, tree

Command = Callable[..., Outcome]
QUICK = ("--no-history", "--energy", "0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "no batch '0'; expected whole numbers"),
        (["--frame", "1280"], "--frame '1280' is not understood; expected WIDTHxHEIGHT"),
        (["--runs", "50"], "50 runs tell nothing of a 99th percentile"),
        (["--batch", "8"], "a stream carries one flight's past; export and measure --form pair"),
        (["--protocol", "skd"], "has no graph in pair form"),
        (["--truth", "{tmp}/t.npz"], "t.npz cannot be read"),
        (["--torch", "fp8"], "unknown precision 'fp8' for --torch; expected one of fp32, fp16, bf16"),
        (["--torch", "fp32", "--student", "skd-64-motion"], "takes other frames than release skd-64"),
    ],
)
def test_bad_words_are_one_clear_line(
    command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "t.npz").write_text("none")
    outcome = command("profile", *(word.replace("{tmp}", str(tmp_path)) for word in words), *QUICK)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_release_without_golden_set_is_one_line(command: Command, release: Path) -> None:
    (release / "golden.npz").unlink()
    outcome = command("profile", release, *QUICK)
    assert outcome.code == 2
    assert "lacks golden.npz: copy it whole, or export again" in outcome.err


def test_a_precision_that_is_not_there_is_named_and_the_rest_measured(
    command: Command, release: Path, tmp_path: Path
) -> None:
    manifest = json.loads((release / "release.json").read_text())
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["precision"] != "fp16"]
    (release / "release.json").write_text(json.dumps(manifest))
    outcome = command("profile", release, "--precision", "fp16,int8", *QUICK, "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "l.json").read_text())
    assert [row["name"] for row in document["latencies"]] == ["int8"]
    assert "has no fp16 graph in stream form" in document["left_out"][0]
    assert "left out: fp16 at batch 1" in outcome.out


def test_a_broken_budget_exits_with_1_and_its_name(command: Command, tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("[int8]\np99_ms = 0.00001\n")
    outcome = command("profile", "--precision", "int8", *QUICK, "--budget", tmp_path / "budget.toml")
    assert outcome.code == 1
    assert "int8 p99_ms is" in outcome.err
    assert "at most 1e-05 was asked for" in outcome.err


def test_history_says_how_it_stands_to_the_last(command: Command, tmp_path: Path) -> None:
    words = ("profile", "--precision", "int8", "--threads", "1", "--energy", "0")
    assert command(*words).code == 0
    outcome = command(*words, "--html", tmp_path / "r.html")
    assert "against the last of this board" in outcome.out
    assert "This board" in (tmp_path / "r.html").read_text()


def test_ctrl_c_half_way_keeps_whole_rounds() -> None:
    release = load_release()
    contenders, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    turns = 0

    def stop(runs: int, of: int) -> None:
        nonlocal turns
        turns += 1
        if turns == 5:  # in the middle of the third round
            raise KeyboardInterrupt

    document = measured(release, contenders, ProfileSettings(threads=1, energy_s=0), on_turn=stop)
    assert document["interrupted"]
    assert [row["runs"] for row in document["latencies"]] == [2 * measure.TURN] * 2
    assert [row["accuracy"] for row in document["latencies"]] == [None, None]


def test_as_many_runs_as_take_a_while_but_no_more_than_were_asked_for() -> None:
    release = load_release()
    contenders, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    told: set[int] = set()
    short = measured(release, contenders, ProfileSettings(40, threads=1, energy_s=0))
    assert [row["runs"] for row in short["latencies"]] == [40, 40]
    assert [one["verdict"] for one in short["against"]] == ["undecided"]
    assert any("too few turns to tell" in line for line in notes(short))
    long = measured(
        release,
        contenders,
        ProfileSettings(40, least_s=0.3, threads=1, energy_s=0),
        on_turn=lambda runs, of: told.add(of),
    )
    runs = [row["runs"] for row in long["latencies"]]
    assert runs[0] == runs[1] > 40
    assert told == {sum(runs)}
    assert max(sum(map(sum, row["times_ms"])) for row in long["latencies"]) > 100


def test_turns_begin_with_another_one_each_round() -> None:
    release = load_release()
    contenders, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    feeds = [golden_feeds(release, "stream", 1)] * 2
    with measure.opened(contenders, feeds) as found:
        assert measure.take_turns(found, feeds, 4, 5)
        first = [a < b for a, b in zip(found[0][0].turns_at_s, found[1][0].turns_at_s, strict=True)]
    assert first == [True, False, True, False]


def test_a_board_that_throttles_all_the_time_is_marked(tmp_path: Path) -> None:
    throttling = {**ORIN, "sys/class/thermal/cooling_device1/cur_state": "2"}
    release = load_release()
    contenders, _ = find_candidates(release, ["int8"], "stream", threads=1)
    settings = ProfileSettings(threads=1, energy_s=0.3, root=tree(tmp_path, throttling))
    document = measured(release, contenders, settings)
    assert document["conditions"]["throttled"] == ["cpu-throttle-alert"]
    assert document["conditions"]["temperatures_c"]["highest"]["tj-thermal"] == 52
    used = document["latencies"][0]["energy"]
    assert used["power_w"] == pytest.approx(7.0, rel=0.05)  # the tree's, at any load
    assert used["joules_per_frame"] == pytest.approx(0, abs=1e-3)  # idle takes as much


def test_what_changed_meanwhile_is_told(tmp_path: Path) -> None:
    trip, mode = "sys/class/hwmon/hwmon2/oc1_event_cnt", "var/lib/nvpmodel/status"
    modes = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n"
    root = tree(tmp_path, {**ORIN, "etc/nvpmodel.conf": modes, mode: "pmode:0000"})
    assert read_facts(root).power_mode_name == "MAXN"
    release = load_release()
    contenders, _ = find_candidates(release, ["int8"], "stream", threads=1)
    told = 0

    def meanwhile(runs: int, of: int) -> None:
        nonlocal told
        told += 1
        if told == 2:
            (root / trip).write_text("3")
            (root / mode).write_text("pmode:0001")
        time.sleep(0.06)

    document = measured(
        release, contenders, ProfileSettings(200, threads=1, energy_s=0, root=root), on_turn=meanwhile
    )
    conditions = document["conditions"]
    assert conditions["throttled"] == ["too much current (oc1)"]
    hot = [point["throttled"] for point in conditions["timeline"] if point["throttled"]]
    assert hot == [["too much current (oc1)"]], "once: when it was counted"
    assert any("the power mode changed while measured: MAXN, then 15W" in line for line in notes(document))


def test_what_an_engine_refuses_late_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    release = load_release()
    contenders, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)

    def broken(place: Path) -> ProfiledRunner:
        raise InputError("no profiler today")

    contenders = [replace(contenders[0], open_profiled=broken), contenders[1]]
    document = measured(release, contenders, ProfileSettings(40, threads=1, energy_s=0, layers=True))
    assert [row["runs"] for row in document["latencies"]] == [40, 40]
    assert list(document["layers"]) == ["int8"]
    assert document["left_out"] == ["a closer look at fp32: no profiler today"]


def test_int8_is_held_to_pytorch_where_there_is_no_fp32_of_ours(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    words = ("profile", "--precision", "int8", "--torch", "fp32", "--threads", "1", *QUICK)
    outcome = command(*words, "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    (against,) = json.loads((tmp_path / "l.json").read_text())["against"]
    assert (against["name"], against["base"], against["verdict"]) == ("int8", "torch fp32", "faster")


def test_truth_gives_nss(command: Command, tmp_path: Path) -> None:
    import numpy as np

    from edge.simulation.world import World

    world = World(5, 320, 180)
    frames = np.stack([world.frame(index).image for index in range(4)])
    np.savez(tmp_path / "t.npz", frames=frames, fixations=np.array([[0, 90, 160], [3, 20, 30]]))
    words = ("profile", "--precision", "int8", *QUICK, "--truth", tmp_path / "t.npz")
    outcome = command(*words, "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads((tmp_path / "l.json").read_text())["latencies"]
    assert np.isfinite(row["accuracy"]["nss"])
