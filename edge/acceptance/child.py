"""One item of an acceptance in this process: `python -m edge.acceptance.child SETTINGS`, as JSON.

The result is written to a file, so that the output of the tools that an item uses, and even a crash, cannot
spoil it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edge.acceptance.items import find_item
from edge.acceptance.workspace import Outcome, UnavailableError, Workspace
from edge.core.errors import CheckError, InputError


def run_item(name: str, workspace: Workspace) -> dict[str, Any]:
    """Measure an item and return its result as JSON types."""
    try:
        outcome = find_item(name).measure(workspace)
    except UnavailableError as error:
        return {"state": "not possible here", "text": str(error), "values": {}, "goal": ""}
    except (InputError, CheckError, OSError) as error:
        return {"state": "failed", "text": str(error), "values": {}, "goal": ""}
    return {
        "state": _state(outcome),
        "text": outcome.text,
        "values": dict(outcome.values),
        "goal": outcome.goal,
    }


def _state(outcome: Outcome) -> str:
    if outcome.is_met is None:
        return "measured"
    return "goal met" if outcome.is_met else "goal missed"


def main() -> None:
    """Measure the item that the argument names, and write its result."""
    settings = json.loads(sys.argv[1])
    pairs = settings["pairs"]
    workspace = Workspace(Path(settings["folder"]), settings["quick"], Path(pairs) if pairs else None)
    result = run_item(settings["item"], workspace)
    Path(settings["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
