"""Results of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "none", "lacks", "fails"]
"""ok: works; none: is absent and not needed; lacks: would add something; fails: nothing runs without it."""


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        subject: What was checked.
        state: Whether it works.
        text: What was found.
        remedy: Command or step that fixes a lack; empty if there is none.
    """

    subject: str
    state: State
    text: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as JSON types."""
        return {"subject": self.subject, "state": self.state, "text": self.text, "remedy": self.remedy}
