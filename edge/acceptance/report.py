"""The report of an acceptance: one Markdown table for readers, and JSON with everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.acceptance.runner import ItemResult
from edge.core.atomic_files import atomic_file, translate_write_errors

SCHEMA = 1


def report_document(results: Sequence[ItemResult], quick: bool) -> dict[str, Any]:
    """Return the report as JSON types."""
    return {
        "schema": SCHEMA,
        "aerogaze": _version(),
        "day": datetime.now(timezone.utc).date().isoformat(),
        "quick": quick,
        "machine": _machine(results),
        "items": [result.to_dict() for result in results],
    }


def report_markdown(document: Mapping[str, Any]) -> str:
    """Return the report as Markdown: a heading, a line of totals and one table."""
    kind = "quick acceptance" if document["quick"] else "acceptance"
    counts = Counter(item["state"] for item in document["items"])
    totals = ", ".join(f"{state} {count}" for state, count in counts.items())
    lines = [
        f"## {document['machine'] or 'Unknown machine'}, {document['day']}",
        "",
        f"Aerogaze {document['aerogaze']}, {kind}: {totals}.",
        "",
        "| Item | State | Result | Goal | Seconds |",
        "|---|---|---|---|---|",
    ]
    for item in document["items"]:
        cells = (item["item"], item["state"], item["text"], item["goal"], f"{item['seconds']:.0f}")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def write_report(document: Mapping[str, Any], stem: Path) -> tuple[Path, Path]:
    """Write the report next to each other as `STEM.md` and `STEM.json`, and return both paths."""
    texts = {".md": report_markdown(document), ".json": json.dumps(document, indent=1) + "\n"}
    paths = {suffix: stem.with_name(stem.name + suffix) for suffix in texts}
    for suffix, text in texts.items():
        with atomic_file(paths[suffix]) as path, translate_write_errors(paths[suffix]):
            path.write_text(text)
    return paths[".md"], paths[".json"]


def _machine(results: Sequence[ItemResult]) -> str:
    """Return the name of the machine: its board or GPU, else its processor."""
    described: dict[str, Any] = next(
        (result.values["machine"] for result in results if "machine" in result.values), {}
    )
    return str(described.get("board") or described.get("gpu") or described.get("cpu") or "")


def _version() -> str:
    try:
        return version("aerogaze")
    except PackageNotFoundError:
        return "not installed as a package"
