from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge.simulation.world import World
from tests.conftest import Outcome

Command = Callable[..., Outcome]
QUICK = ("--no-history", "--energy", "0")
FEW_RUNS = ("--runs", "300")
"""Fewest runs of the protocol; without the option, they also take at least a second."""
NEEDS_TORCH = pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: pip install 'aerogaze[train]'"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "no batch '0'; expected whole numbers"),
        (["--frame", "1280"], "--frame '1280' is not valid; expected WIDTHxHEIGHT"),
        (["--runs", "10"], "10 runs are too few for an interval; expected at least 20"),
        (
            ["--protocol", "skd", "--runs", "19"],
            "19 runs are too few for an interval; expected at least 20",
        ),
        (["--runs", "0"], "0 runs are too few for an interval; expected at least 20"),
        (["--batch", "8"], "a stream keeps the state of one flight; export and measure --form pair"),
        (["--protocol", "skd"], "has no graph in pair form"),
        (["--truth", "{tmp}/t.npz"], "t.npz cannot be read"),
        pytest.param(
            ["--torch", "fp8"],
            "unknown precision 'fp8' for --torch; expected one of fp32, fp16, bf16",
            marks=NEEDS_TORCH,
        ),
        pytest.param(
            ["--torch", "fp32", "--student", "skd-64"],
            "takes other frames than release skd-64-motion",
            marks=NEEDS_TORCH,
        ),
    ],
)
def test_invalid_option_gives_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "t.npz").write_text("none")
    outcome = command("profile", *(word.replace("{tmp}", str(tmp_path)) for word in words), *QUICK)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_help_names_the_fewest_runs(command: Command) -> None:
    text = " ".join(command("profile", "--help").out.split())
    assert "--runs N Measured runs of each precision, at least 20 (default: 300;" in text
    assert "if all would take over a minute; protocol skd: 40). --warm-up" in text


def test_release_without_golden_set_is_refused(command: Command, release: Path) -> None:
    (release / "golden.npz").unlink()
    outcome = command("profile", release, *QUICK)
    assert outcome.code == 2
    assert "lacks golden.npz: copy it whole, or export again" in outcome.err


def test_missing_precision_is_named_and_the_others_are_measured(
    command: Command, release: Path, tmp_path: Path
) -> None:
    manifest = json.loads((release / "release.json").read_text())
    manifest["graphs"] = [graph for graph in manifest["graphs"] if graph["precision"] != "fp16"]
    (release / "release.json").write_text(json.dumps(manifest))
    outcome = command(
        "profile", release, "--precision", "fp16,int8", *QUICK, *FEW_RUNS, "--json", tmp_path / "l.json"
    )
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "l.json").read_text())
    assert [row["name"] for row in document["latencies"]] == ["int8"]
    assert "has no fp16 graph in stream form" in document["left_out"][0]
    assert "left out: fp16 at batch 1" in outcome.out


def test_broken_budget_is_named_with_exit_code_1(command: Command, tmp_path: Path) -> None:
    (tmp_path / "budget.toml").write_text("[int8]\np99_ms = 0.00001\n")
    outcome = command(
        "profile", "--precision", "int8", *QUICK, *FEW_RUNS, "--budget", tmp_path / "budget.toml"
    )
    assert outcome.code == 1
    assert "int8 p99_ms is" in outcome.err
    assert "the budget is at most 1e-05" in outcome.err


def test_second_profile_is_compared_with_the_first(command: Command, tmp_path: Path) -> None:
    words = ("profile", "--precision", "int8", "--threads", "1", "--energy", "0", *FEW_RUNS)
    assert command(*words).code == 0
    outcome = command(*words, "--html", tmp_path / "r.html")
    assert "compared with this board's previous profile" in outcome.out
    assert "This board" in (tmp_path / "r.html").read_text()


def test_int8_is_compared_with_pytorch_without_fp32_of_the_release(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'aerogaze[train]'")
    words = ("profile", "--precision", "int8", "--torch", "fp32", "--threads", "1", *QUICK, *FEW_RUNS)
    outcome = command(*words, "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    (comparison,) = json.loads((tmp_path / "l.json").read_text())["against"]
    assert (comparison["name"], comparison["base"]) == ("int8", "torch fp32")


def test_truth_option_gives_nss(command: Command, tmp_path: Path) -> None:
    world = World(5, 320, 180)
    frames = np.stack([world.frame(index).image for index in range(4)])
    np.savez(tmp_path / "t.npz", frames=frames, fixations=np.array([[0, 90, 160], [3, 20, 30]]))
    words = ("profile", "--precision", "int8", *QUICK, *FEW_RUNS, "--truth", tmp_path / "t.npz")
    outcome = command(*words, "--json", tmp_path / "l.json")
    assert outcome.code == 0, outcome.err
    (row,) = json.loads((tmp_path / "l.json").read_text())["latencies"]
    assert np.isfinite(row["accuracy"]["nss"])
