"""An acceptance runs to its end, whatever its items do, and says what happened to each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.acceptance import child, runner
from edge.acceptance.items import ITEMS, QUICK_TOTAL_S, Item, find_item
from edge.acceptance.report import report_document, report_markdown, write_report
from edge.acceptance.runner import ItemResult, run_acceptance
from edge.acceptance.workspace import Outcome, UnavailableError, Workspace
from edge.core.errors import InputError
from edge.hardware.gpu import detect_gpu
from tests.conftest import Outcome as CommandOutcome

Measure = Callable[[Workspace], Outcome]

CHILD = """
import json, os, signal, sys, time
settings = json.loads(sys.argv[1])
name = settings["item"]
if name == "crashes":
    print("before the crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "breaks":
    raise ZeroDivisionError("a defect")
if name == "hangs":
    time.sleep(600)
values = {"gain": 1.8, "output": [os.path.expanduser("~/tests") + " passed"]}
result = {"state": "measured", "text": "1.8\\n times", "values": values, "goal": ""}
open(settings["result"], "w").write(json.dumps(result))
"""


def fake_items(*names: str, budget_s: float = 60.0) -> list[Item]:
    """Return items that the process of `fake_child` plays."""
    return [Item(name, lambda workspace: Outcome(""), budget_s, budget_s) for name in names]


@pytest.fixture
def fake_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    """Replace the process of an item by one that starts faster; return a workspace."""
    original = subprocess.Popen

    def start(words: list[str], **options: object) -> object:
        return original([words[0], "-c", CHILD, words[-1]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr("edge.acceptance.runner.subprocess.Popen", start)
    return Workspace(tmp_path)


def test_no_item_ends_the_others(fake_child: Workspace) -> None:
    items = [*fake_items("crashes", "breaks"), *fake_items("hangs", budget_s=1.0), *fake_items("works")]
    results = run_acceptance(fake_child, items=items)
    assert [(result.item, result.state, result.text) for result in results] == [
        ("crashes", "failed", f"its process ended with code {-signal.SIGSEGV}: before the crash"),
        ("breaks", "failed", "its process ended with code 1: ZeroDivisionError: a defect"),
        ("hangs", "out of time", "it was not finished in its time"),
        ("works", "measured", "1.8 times"),
    ]
    assert results[-1].values == {"gain": 1.8, "output": ["~/tests passed"]}


def refuse(workspace: Workspace) -> Outcome:
    raise InputError("the graph is refused")


def lack(workspace: Workspace) -> Outcome:
    raise UnavailableError("no GPU")


@pytest.mark.parametrize(
    ("measure", "state", "text"),
    [
        (lambda workspace: Outcome("1.8 times", {}, "at least 1.5 times", True), "goal met", "1.8 times"),
        (lambda workspace: Outcome("1.2 times", {}, "at least 1.5 times", False), "goal missed", "1.2 times"),
        (lambda workspace: Outcome("1.2 times"), "measured", "1.2 times"),
        (refuse, "failed", "the graph is refused"),
        (lack, "not possible here", "no GPU"),
    ],
)
def test_state_says_how_an_item_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measure: Measure, state: str, text: str
) -> None:
    monkeypatch.setattr(child, "find_item", lambda name: Item(name, measure, 60, 60))
    result = child.run_item("any", Workspace(tmp_path))
    assert (result["state"], result["text"]) == (state, text)


def test_items_behind_the_time_limit_are_reported_as_not_started(fake_child: Workspace) -> None:
    results = run_acceptance(fake_child, items=fake_items("hangs", "works"), total_s=1.0)
    assert [(result.item, result.state) for result in results] == [
        ("hangs", "out of time"),
        ("works", "not started"),
    ]
    assert results[1].text == "the 1 s of all items are over"


def test_item_without_a_quick_budget_is_left_out_of_a_quick_acceptance(tmp_path: Path) -> None:
    item = Item("slow", lambda workspace: Outcome(""), 60, None)
    (result,) = run_acceptance(Workspace(tmp_path, quick=True), items=[item])
    assert (result.state, result.text) == ("not started", "left out by --quick")


def test_ctrl_c_ends_the_item_and_reports_the_rest(
    fake_child: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        """A process that Ctrl-C interrupts while it is waited for."""

        pid, returncode = 2**22 + 1, None
        waits = 0

        def wait(self, timeout: float) -> None:
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr("edge.acceptance.runner.subprocess.Popen", lambda *words, **options: Interrupted())
    monkeypatch.setattr("edge.acceptance.runner.os.killpg", lambda *_: None)
    results = run_acceptance(fake_child, items=fake_items("works", "misses"))
    assert [result.state for result in results] == ["interrupted", "not started"]


def test_items_have_different_names_and_fit_a_quick_acceptance() -> None:
    assert len({item.name for item in ITEMS}) == len(ITEMS)
    assert all(find_item(item.name) is item for item in ITEMS)
    assert all(item.quick_s is None or item.quick_s <= item.budget_s for item in ITEMS)
    assert any(item.quick_s for item in ITEMS)
    assert QUICK_TOTAL_S == 600


def test_report_is_one_table_and_json_with_everything(tmp_path: Path) -> None:
    results = [
        ItemResult("Machine", "measured", "a | b", 1.2, 60, values={"machine": {"board": "Orin"}}),
        ItemResult("Gain", "goal missed", "1.2 times", 3, 60, "at least 1.5 times", {"gain": 1.2}),
    ]
    document = report_document(results, quick=True)
    lines = report_markdown(document).splitlines()
    assert lines[0] == f"## Orin, {document['day']}"
    assert lines[2].endswith("quick acceptance: measured 1, goal missed 1.")
    assert lines[-2:] == [
        r"| Machine | measured | a \| b |  | 1 |",
        "| Gain | goal missed | 1.2 times | at least 1.5 times | 3 |",
    ]
    markdown, json_path = write_report(document, tmp_path / "orin.nano")
    assert (markdown.name, json_path.name) == ("orin.nano.md", "orin.nano.json")
    assert json.loads(json_path.read_text())["items"][1]["values"] == {"gain": 1.2}


def test_machine_without_a_gpu_says_so_for_each_item_that_needs_one(tmp_path: Path) -> None:
    if detect_gpu() is not None:
        pytest.skip("needs a machine without a GPU, and this one has one")
    needs_no_gpu = ("Machine", "ONNX Runtime")
    for item in ITEMS:
        if item.name in needs_no_gpu or item.name.startswith("Build"):
            continue
        result = child.run_item(item.name, Workspace(tmp_path))
        assert (result["state"], "no NVIDIA GPU here" in result["text"]) == ("not possible here", True), item


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quick"], "--quick, --out and --pairs need --accept"),
        (["--accept", "--json"], "leave --mavlink and --json out"),
        (["--accept", "--out", "/proc/nowhere/a"], "/proc/nowhere"),
        (["--accept", "--pairs", "nowhere"], "nowhere"),
        (["--accept", "--pairs", "skd-64"], "has no fp16 graph"),
        (["--accept", "--pairs", "skd-64", "--quick"], "which --quick leaves out"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    command: Callable[..., CommandOutcome], words: list[str], message: str
) -> None:
    outcome = command("doctor", *words)
    assert outcome.code == 2
    assert message in outcome.err


def test_command_writes_both_files(
    command: Callable[..., CommandOutcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(
        workspace: Workspace, on_start: object, on_result: Callable[[ItemResult], None]
    ) -> list[ItemResult]:
        assert workspace.quick
        assert os.listdir(workspace.folder) == []
        result = ItemResult("Machine", "measured", "text")
        on_result(result)
        return [result]

    monkeypatch.setattr(runner, "run_acceptance", run)
    outcome = command("doctor", "--accept", "--quick", "--out", tmp_path / "a")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0] == "Machine: measured, 0 s: text"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.md"]
