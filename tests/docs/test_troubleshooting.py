"""Each message on the page about problems is one that the program prints."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from tests.support.pages import ROOT

PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"
SOURCES = ("edge", "export", "jetson", "trainer", "calibration")
pytestmark = pytest.mark.xdist_group("messages")  # the texts of the source are read once
VALUE = "\0"
"""Stands for a value in a text of the source, as `…` does on the page."""


def _messages() -> list[str]:
    """Return the terms of the definition lists."""
    return re.findall(r"^`([^`]+)`\n:   ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@functools.cache
def _texts() -> tuple[str, ...]:
    """Return the texts of the source; those with values have `VALUE` in their place."""
    texts = []
    for path in (path for top in SOURCES for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_no_message_names_a_page_that_a_wheel_does_not_have() -> None:
    for path in (path for top in SOURCES for path in (ROOT / top).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = set(map(id, _docstrings(tree)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docstrings:
                assert "docs/" not in str(node.value), f"{path.relative_to(ROOT)}:{node.lineno}"


def _is_printed(message: str) -> bool:
    """Say whether each clause of a message is in a text of the source, without what the program fills in."""
    clauses = re.split(r"…|[:;] |\S+\.json|(?=CUDA_ERROR_)", message)
    parts = [clause.strip() for clause in clauses if len(clause.strip(" :;,().'[]")) > 1]
    return all(any(part in text for text in _texts()) for part in parts)


@pytest.mark.parametrize("message", _messages())
def test_message_is_one_of_the_program(message: str) -> None:
    assert _is_printed(message), message


def test_message_that_nobody_prints_is_found() -> None:
    assert len(_messages()) > 40
    assert not _is_printed("no camera …; buy another …")
