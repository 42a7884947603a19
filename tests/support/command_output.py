"""Output of commands."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import Outcome


def parse_output(outcome: Outcome) -> dict[str, Any]:
    """Return the JSON document that a successful command printed."""
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    return document
