"""Tests of text from elsewhere: what is printed cannot control a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.foreign_text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("drone 7: größe 3 µs", "drone 7: größe 3 µs"),
        ("a\tb\nc\r\nd", "a b c  d"),
        ("\x1b]0;title\x07\x1b[2J", "�]0;title��[2J"),
        ("\x9b31m", "�31m"),
        ("abc\u202egpj.exe", "abc�gpj.exe"),
        ("a\u2028b\u2029c", "a b c"),
        ("\udcff", "�"),
        ("a\u200bb\ufeff", "a�b�"),
    ],
)
def test_characters_that_control_a_terminal_are_replaced(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(text=st.text() | st.text(st.characters(max_codepoint=0xA0)))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert len(printable(text, 10)) <= 10
    shown.encode()
