"""Answers of damaged and hostile boards: each is either usable as it is, or refused in one line."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.errors import CheckError, InputError
from edge.hardware.board import BoardFacts
from jetson.bundle.manifest import version_key
from jetson.deploy.board_answer import is_version, parse_json, parse_status
from jetson.deploy.push import CommandResult, Log, OnProgress, PushOptions, load_bundle, push_bundle
from tests.conftest import Outcome

MEASURED = {"precision": "int8", "cc": 0.99, "p50_ms": 1.5, "p99_ms": 2, "power_w": None, "refused": None}
STATUS: dict[str, Any] = {
    "schema": 1,
    "aerogaze": "0.2.0.dev0",
    "trusts": ["ab" * 32],
    "state": "good",
    "slot": "a",
    "release": "skd-64",
    "counter": 2,
    "highest_counter": 2,
    "precision": "int8",
    "why": "int8: fastest of int8",
    "measured": [MEASURED],
    "board": {
        "model": None, "board": "orin-nano", "compute_capability": "8.7", "l4t": None, "jetpack": "6.2",
        "tensorrt": "10.3.0", "power_mode": "0", "power_modes": {"0": "15W"},
    },
}  # fmt: skip
PATHS: list[tuple[str | int, ...]] = [
    *((key,) for key in STATUS),
    *(("board", key) for key in STATUS["board"]),
    *(("measured", 0, key) for key in MEASURED),
    ("trusts", 0),
    ("board", "power_modes", "0"),
]
WRONG_VALUES = [[1], {"a": {}}, True, 10**400, 1e999, "x" * 70_000, [["x"]] * 2000]
TEXTS = {"why", "refused"}
"""Keys that may hold long texts."""


def replaced(path: Sequence[str | int], value: object) -> dict[str, Any]:
    status = copy.deepcopy(STATUS)
    table: Any = status
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return status


def test_answers_of_this_version_are_read(command: Callable[..., Outcome], tmp_path: Path) -> None:
    assert parse_status(json.dumps(STATUS)) == STATUS
    assert parse_status(json.dumps(STATUS | {"later": [1]}))["later"] == [1]
    text = command("device", "status", "--root", tmp_path, "--json").out
    assert parse_status(text)["release"] is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", WRONG_VALUES, ids=lambda value: repr(value)[:12])
def test_value_of_a_wrong_type_or_size_is_refused(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ValueError, match=r"^\S.{0,60}$"):
        parse_status(json.dumps(replaced(path, value)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "[]",
        "1",
        "null",
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"schema":' + "9" * 5000 + "}",
        " " * (1 << 21),
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    with pytest.raises(ValueError, match=r"."):
        parse_status(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(PATHS), value=JSON_VALUES)
def test_accepted_answer_can_be_used(path: tuple[str | int, ...], value: object) -> None:
    try:
        status = parse_status(json.dumps(replaced(path, value)))
    except ValueError:
        return
    version_key(status["aerogaze"])
    BoardFacts(**status["board"])
    assert set(status["trusts"]) <= set(status["trusts"])
    for row in status["measured"]:
        assert f"{row['cc']:.4f} {row['p50_ms']:.2f} {row['p99_ms']:.2f} {row['precision']}"
        assert row.get("power_w") is None or f"{row['power_w']:.1f}"


@pytest.mark.parametrize("text", ["", "9" * 5000, "1.0\n", "1 0", "\x1b[2J", "\u0661"])
def test_text_that_is_no_version_is_refused(text: str) -> None:
    assert not is_version(text)


class AnsweringTarget:
    """Board that answers each command with the same text."""

    name = "pilot@drone"

    def __init__(self, text: str) -> None:
        self._text = text

    async def run(self, arguments: Sequence[str], log: Log | None = None) -> CommandResult:
        return CommandResult(0, self._text, "")

    async def send(self, path: Path, digest: str, on_progress: OnProgress) -> str:
        return path.name

    async def remove(self, name: str) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("path", PATHS)
def test_push_to_a_board_that_answers_wrongly_ends_in_one_line(
    make_bundle: Callable[..., Path], path: tuple[str | int, ...]
) -> None:
    bundle = load_bundle(make_bundle())
    for value in ([1], {"a": 1}, True, 7 if path[-1] in TEXTS else "9" * 5000):
        target = AnsweringTarget(json.dumps(replaced(path, value)))
        with pytest.raises((InputError, CheckError)) as caught:
            asyncio.run(
                push_bundle(target, bundle, PushOptions(), lambda line: None, lambda sent, total: None)
            )
        assert "has an aerogaze of another version than this desk" in str(caught.value)
