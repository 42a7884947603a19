"""The document that holds all that a profile measured, as JSON values."""

from __future__ import annotations

from typing import Any

SCHEMA = 2
"""Version of the document's layout; docs/profile.md describes it."""
Document = dict[str, Any]
