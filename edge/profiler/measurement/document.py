"""JSON document of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA = 2
"""Version of the document's layout, which docs/reference/profile.md describes."""
Document = dict[str, Any]
"""A document, or a part of one that is being filled in."""
Row = Mapping[str, Any]
"""A part of a document that is only read."""
