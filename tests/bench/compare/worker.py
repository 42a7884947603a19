"""Worker process of a commit: opens benchmarks, and takes turns on request.

It is started with the commit's packages first in its path and this project's benchmarks, so that both commits
are measured by the same code. Requests and replies are lines of JSON on standard input and output; what a
benchmark prints goes to standard error. The worker ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import edge
from tests.bench.measurement.row import Benchmark, Contestant
from tests.bench.themes import load_benchmarks


class Server:
    """Answers requests. One benchmark is open at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._contestants: Mapping[str, Contestant] = {}

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the reply to a request, with the processor seconds so far; an error is its text."""
        try:
            reply = getattr(self, f"_{request['do']}")(*request.get("with", ()))
        except Exception as error:  # whatever another commit's code raises
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        return {**reply, "cpu_s": sum(os.times()[:4])}

    def close(self) -> None:
        """Close the benchmark that is open."""
        self._contestants = {}
        self._stack.close()

    def _locate(self) -> dict[str, Any]:
        return {"edge": str(Path(edge.__file__).parent)}

    def _open(self, theme: str, name: str) -> dict[str, Any]:
        self.close()
        benchmark = next((each for each in load_benchmarks(theme) if each.name == name), None)
        if not isinstance(benchmark, Benchmark):
            raise LookupError(f"there is no {name}")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._contestants = self._stack.enter_context(benchmark.open(folder))
        return {
            "contestants": {
                key: {"work": each.work, "repeats": each.repeats}
                for key, each in self._contestants.items()
                if each.comparable
            }
        }

    def _turn(self, name: str, calls: int) -> dict[str, Any]:
        return {"value": self._contestants[name].take_turn(calls)}


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        replies.write(json.dumps(server.reply(json.loads(line))) + "\n")
        replies.flush()
    server.close()


if __name__ == "__main__":
    main()
