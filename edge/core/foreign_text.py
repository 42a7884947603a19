"""Text from elsewhere, made safe to print: from boards, servers, cameras, and names of files."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: str, max_chars: int | None = None) -> str:
    """Return a text in one line without characters that control a terminal or hide other text.

    Whitespace becomes a space. Control, format and unassigned characters, such as ESC or the marks that
    reverse the direction of writing, become the replacement character, as do bytes that are not UTF-8.

    Args:
        text: The text.
        max_chars: Longest result; a longer text is cut and ends with an ellipsis.
    """
    if max_chars is not None and len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    if text.isprintable():
        return text
    return "".join(" " if char.isspace() else char if char.isprintable() else REPLACEMENT for char in text)
