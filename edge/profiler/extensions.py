"""Candidates from outside edge, registered as entry points.

A package registers a function under the group `aerogaze.runners` of its pyproject.toml. So edge can measure
PyTorch students and still runs without torch: the module is imported when its runners are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from edge.core.errors import InputError
from edge.profiler.measurement.candidate import Candidate
from edge.release.release import Form, Release

ENTRY_POINT_GROUP = "aerogaze.runners"


class CandidateSource(Protocol):
    """Function that makes candidates of a student."""

    def __call__(
        self,
        student: str,
        release: Release,
        precisions: Sequence[str],
        form: Form,
        threads: int | None,
        batches: Iterable[int],
        /,
    ) -> tuple[list[Candidate], list[str]]:
        """Return the candidates, to be measured with those of the release, and what was left out and why."""


def load_candidate_source(name: str) -> CandidateSource:
    """Import a registered source of candidates.

    Args:
        name: Name of the entry point, such as "torch".

    Raises:
        InputError: No such source is registered, or a package that it needs is not installed.
    """
    entry = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
    if entry is None:
        raise InputError(
            f"--{name} needs the trainer, which this installation has not registered: "
            "pip install 'aerogaze[train]'"
        )
    try:
        source: CandidateSource = entry.load()
    except ModuleNotFoundError as error:
        package = entry.module.partition(".")[0]
        if (error.name or "").startswith(
            f"{package}."
        ):  # a fault of the package, and not of the installation
            raise
        raise InputError(
            f"--{name} needs {error.name}, which is not installed: pip install 'aerogaze[train]'"
        ) from None
    return source
