"""All checks as one report: text of one screen, or JSON without what names a person or a machine."""

from __future__ import annotations

import getpass
import re
import socket
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.atomic_files import cache_folder
from edge.core.errors import InputError
from edge.diagnostics import devices
from edge.diagnostics.finding import Finding
from edge.diagnostics.gpu import check_gpu
from edge.diagnostics.packages import InstalledPackages
from edge.diagnostics.software import check_software
from edge.hardware.board import read_board_facts
from edge.hardware.cuda_driver import ask_driver
from edge.hardware.device_nodes import list_nodes
from edge.hardware.nvml import Nvml

WIDTH = 80
SCHEMA = 1
_PUBLIC_NAMES = {"root", "aerogaze", "localhost"}
"""Names of users and machines that tell nothing about a person."""


@dataclass(frozen=True)
class Report:
    """Findings by section."""

    sections: Mapping[str, Sequence[Finding]]

    @property
    def can_run(self) -> bool:
        """Return whether aerogaze can run here, on ONNX Runtime at least."""
        return not any(finding.state == "fails" for finding in self._findings())

    def to_dict(self, redact: Redactor) -> dict[str, Any]:
        """Return the report as JSON types, without private names."""
        return {
            "schema": SCHEMA,
            "can_run": self.can_run,
            "sections": {
                title: [
                    {key: redact(value) for key, value in finding.to_dict().items()} for finding in findings
                ]
                for title, findings in self.sections.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report, each of at most 80 columns."""
        width = max(len(finding.subject) for finding in self._findings())
        for title, findings in self.sections.items():
            yield title
            for finding in findings:
                yield from _wrap(f"  {finding.state:5}  {finding.subject:{width}}  ", finding.text)
                if finding.remedy:
                    yield from _wrap(" " * (width + 11) + "fix: ", finding.remedy)
        count = sum(finding.state == "lacks" for finding in self._findings())
        if self.can_run:
            yield f"aerogaze runs here on ONNX Runtime; lacks: {count}"
        else:
            yield "aerogaze cannot run here: repair what fails"

    def _findings(self) -> Iterator[Finding]:
        for findings in self.sections.values():
            yield from findings


class Redactor:
    """Replaces names of the user, the machine and the home folder in a text.

    Args:
        home: Home folder; None for a user without one.
        names: Placeholder by name.
    """

    def __init__(self, home: Path | None, names: Mapping[str, str]) -> None:
        self._home = "" if home is None else str(home)
        self._names = {name: word for name, word in names.items() if name and name not in _PUBLIC_NAMES}

    @classmethod
    def of_this_process(cls) -> Redactor:
        """Return the redactor of this user and machine."""
        user = ""
        home: Path | None = None
        with suppress(OSError, KeyError):  # a user without an entry in /etc/passwd
            user = getpass.getuser()
        with suppress(RuntimeError):
            home = Path.home()
        return cls(home, {user: "USER", socket.gethostname(): "HOST"})

    def __call__(self, text: str) -> str:
        """Return the text without the names."""
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        text = re.sub(r"/(home|Users)/[^/\s]+", r"/\1/USER", text)
        for name, word in self._names.items():
            text = re.sub(rf"(?<![\w$]){re.escape(name)}(?!\w)", word, text)
        return text


def diagnose(root: Path = Path("/"), endpoint: str | None = None) -> Report:
    """Check this machine.

    Args:
        root: Root of the machine's file system.
        endpoint: MAVLink link to listen on; None for no check of the autopilot.
    """
    packages, facts, nvml = InstalledPackages(), read_board_facts(root), Nvml.open()
    folders = {"temporary": Path(tempfile.gettempdir()), "here": Path.cwd()}
    machine = [*devices.check_cameras(root, facts), *devices.check_sensors(root, nvml)]
    try:
        folders = {"cache": cache_folder(), **folders}
    except InputError:
        machine.append(Finding("Cache", "lacks", "this user has no home folder", "export AEROGAZE_CACHE=DIR"))
    machine.append(devices.check_disk(folders))
    if endpoint is not None:
        machine.append(devices.check_autopilot(endpoint))
    return Report(
        {
            "Software": list(check_software(packages)),
            "GPU": list(check_gpu(root, facts, ask_driver(), list_nodes(root), packages)),
            "Machine": machine,
        }
    )


def _wrap(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=True,
        break_on_hyphens=False,
    )
