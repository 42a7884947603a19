"""What the agent has reported to the server about the present deployment, kept over restarts.

A server keeps a limited number of reports for each deployment (hawkBit: 1000), and rejects more. The agent
polls every few minutes, and a drone may stay armed for days: it reports each step once, and each change.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import read_json

MAX_REPORTS = 100
"""Reports of one deployment, except the verdict: far below what servers accept."""
MAX_BYTES = 1 << 16
WAITING = "waiting: "
"""Start of reports that give a reason for waiting."""
DOWNLOADED = "downloaded, not installed yet"
FinishedState = Literal["none", "success", "failure"]


@dataclass
class DeploymentReports:
    """Reports about one deployment. The fields are keys of the file.

    Attributes:
        id: Id of the action on the server; empty if there was none.
        waiting: The latest reason for waiting that was reported, with numbers left out.
        steps: The steps that were reported since then.
        count: Number of reports.
        verdict: "success" or "failure", if one was reached that the server has not accepted yet.
        detail: The reason of the verdict.
    """

    id: str = ""
    waiting: str = ""
    steps: list[str] = field(default_factory=list)
    count: int = 0
    verdict: FinishedState = "none"
    detail: str = ""


@dataclass
class ReportLog:
    """File with the reports about the present deployment.

    Losing the file does no harm: a report is repeated. Errors of the disk are therefore ignored.

    Attributes:
        path: The file.
    """

    path: Path
    _reports: DeploymentReports | None = field(default=None, repr=False)

    def of(self, action_id: str) -> DeploymentReports:
        """Return the reports about a deployment; none for another one than the last."""
        if self._reports is None:
            self._reports = _read(self.path)
        if self._reports.id != action_id:
            self._reports = DeploymentReports(action_id)
        return self._reports

    def is_new(self, action_id: str, report: str) -> bool:
        """Return whether a report tells the server something new.

        A reason for waiting is new if it is another one than before. A step is new once after each new
        reason: a deployment that waits again at each poll repeats its steps, which tells nothing.
        """
        reports, shape = self.of(action_id), _shape(report)
        is_known = shape == reports.waiting if shape.startswith(WAITING) else shape in reports.steps
        return not is_known and reports.count < MAX_REPORTS

    def add(self, action_id: str, report: str) -> None:
        """Record a report that was sent."""
        reports, shape = self.of(action_id), _shape(report)
        reports.count += 1
        if shape.startswith(WAITING):
            reports.waiting, reports.steps = shape, []
        else:
            reports.steps.append(shape)
        self._write()

    def set_verdict(self, action_id: str, verdict: FinishedState, detail: str) -> None:
        """Record the verdict before it is sent: the work is not repeated if the server cannot be reached."""
        reports = self.of(action_id)
        reports.verdict, reports.detail = verdict, detail
        self._write()

    def clear(self) -> None:
        """Forget the reports, after the server has accepted the verdict."""
        self._reports = DeploymentReports()
        self._write()

    def _write(self) -> None:
        assert self._reports is not None
        with suppress(InputError, OSError), atomic_file(self.path) as pending:
            pending.write_text(json.dumps(asdict(self._reports)), "ascii")


def _shape(report: str) -> str:
    """Return a report without its numbers: the free space, for example, changes at each poll."""
    return re.sub(r"\d+(\.\d+)?", "#", report)


def _read(path: Path) -> DeploymentReports:
    try:
        reports = DeploymentReports(**read_json(path, "reports", MAX_BYTES))
    except (InputError, TypeError):
        return DeploymentReports()
    if not isinstance(reports.steps, list):
        return DeploymentReports()
    texts = (reports.id, reports.waiting, reports.detail, *reports.steps)
    is_valid = all(isinstance(text, str) for text in texts) and type(reports.count) is int
    return reports if is_valid and reports.verdict in get_args(FinishedState) else DeploymentReports()
