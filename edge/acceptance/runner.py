"""Runs the items of an acceptance, each in a process with a time limit: none can end the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge.acceptance.items import ITEMS, QUICK_TOTAL_S, TOTAL_S, Item
from edge.acceptance.workspace import Workspace
from edge.diagnostics.report import Redactor

KILL_TIMEOUT_S = 5.0
"""Wait for a killed process; one that hangs in a driver is left behind."""
TAIL_LINES = 15


@dataclass(frozen=True)
class ItemResult:
    """Result of an item. The fields are keys of the JSON file.

    Attributes:
        item: Its name.
        state: measured, goal met, goal missed, failed, not possible here, out of time or not started.
        text: The result, or why there is none, in one line.
        seconds: Time that it took.
        budget_s: Time that it was given.
        goal: The goal in words; empty if there is none.
        values: Everything that was measured.
        tail: Last lines of the output of an item that did not end well.
    """

    item: str
    state: str
    text: str
    seconds: float = 0.0
    budget_s: float = 0.0
    goal: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    tail: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return asdict(self)


def run_acceptance(
    workspace: Workspace,
    on_start: Callable[[Item, float], None] = lambda item, budget_s: None,
    on_result: Callable[[ItemResult], None] = lambda result: None,
    items: Sequence[Item] = ITEMS,
    total_s: float | None = None,
) -> list[ItemResult]:
    """Run the items one after another within their budgets.

    Ctrl-C ends the current item; it and the following ones are reported as not finished.

    Args:
        workspace: Settings and folder.
        on_start: Called before an item with its time limit in seconds.
        on_result: Called with each result.
        items: The items.
        total_s: Time limit of all; None takes that of the page.
    """
    total_s = total_s or (QUICK_TOTAL_S if workspace.quick else TOTAL_S)
    end_s, is_interrupted = time.monotonic() + total_s, False
    results: list[ItemResult] = []
    for item in items:
        budget_s = item.quick_s if workspace.quick else item.budget_s
        left_s = end_s - time.monotonic()
        if budget_s is None:
            result = ItemResult(item.name, "not started", "left out by --quick")
        elif is_interrupted:
            result = ItemResult(item.name, "not started", "interrupted before it")
        elif left_s <= 0:
            result = ItemResult(item.name, "not started", f"the {total_s:.0f} s of all items are over")
        else:
            budget_s = min(budget_s, left_s)
            on_start(item, budget_s)
            result, is_interrupted = _run_item(item, workspace, budget_s)
        results.append(result)
        on_result(result)
    return results


def _run_item(item: Item, workspace: Workspace, budget_s: float) -> tuple[ItemResult, bool]:
    """Run an item in a process of its own; return its result and whether Ctrl-C ended it."""
    output, result_path = workspace.folder / "output.txt", workspace.folder / "result.json"
    result_path.unlink(missing_ok=True)
    settings = {
        "item": item.name,
        "folder": str(workspace.folder),
        "quick": workspace.quick,
        "pairs": str(workspace.pairs.resolve()) if workspace.pairs else None,
        "result": str(result_path),
    }
    words = [sys.executable, "-m", "edge.acceptance.child", json.dumps(settings)]
    started_s, ending = time.monotonic(), ""
    with output.open("wb") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(budget_s)
        except subprocess.TimeoutExpired:
            ending = "out of time"
        except KeyboardInterrupt:
            ending = "interrupted"
        finally:
            _end(process)
    seconds = time.monotonic() - started_s
    result = _read_result(item, result_path, output, process.returncode, ending)
    return (
        ItemResult(**{**result, "seconds": round(seconds, 1), "budget_s": round(budget_s, 1)}),
        ending == "interrupted",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_TIMEOUT_S)


def _read_result(item: Item, path: Path, output: Path, returncode: int | None, ending: str) -> dict[str, Any]:
    redact = Redactor.of_this_process()
    lines = output.read_text(errors="replace").splitlines()
    tail = [redact(line) for line in lines if line.strip()][-TAIL_LINES:]
    try:
        result: dict[str, Any] = _redact_texts(json.loads(path.read_text()), redact)
    except (OSError, ValueError):
        text = {
            "out of time": "it was not finished in its time",
            "interrupted": "it was interrupted",
        }.get(ending, f"its process ended with code {returncode}" + (f": {tail[-1]}" if tail else ""))
        return {"item": item.name, "state": ending or "failed", "text": text, "tail": tail}
    is_well = result["state"] in ("measured", "goal met", "not possible here")
    text = " ".join(result["text"].split())
    return {"item": item.name, **result, "text": text, "tail": [] if is_well else tail}


def _redact_texts(value: Any, redact: Redactor) -> Any:
    """Return JSON types with each text redacted, such as paths in the output of the tests."""
    if isinstance(value, dict):
        return {name: _redact_texts(each, redact) for name, each in value.items()}
    if isinstance(value, list):
        return [_redact_texts(each, redact) for each in value]
    return redact(value) if isinstance(value, str) else value
