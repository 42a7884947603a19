"""What a board knows of its slots: one small file, written by rename. What it says is what is flown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge.core.errors import InputError
from jetson.device.durable_disk import DurableDisk
from jetson.signing import canonical_json as canonical

SlotName = Literal["a", "b"]
STATE_FILE = "state.json"
SCHEMA = 1
MAX_HISTORY = 50
"""Events that are kept."""
MAX_STATE_BYTES = 1 << 20
MAX_TIMESTAMP = 1 << 40
"""Seconds since 1970 that no clock reaches; counters are smaller, too."""


@dataclass(frozen=True)
class Slot:
    """A release that was written to a slot whole, tried there, and may be switched to."""

    id: str
    """SHA-256 of its manifest."""
    release: str
    counter: int
    precision: str
    engine: str
    why: str
    """Why this precision."""
    measured: tuple[Mapping[str, Any], ...]
    installed_at: int


@dataclass(frozen=True)
class BoardState:
    """Which slot is flown, what is in the slots, and what has happened.

    `trial`: the current slot was switched to and not yet marked good. `counter`: the highest that was
    marked good. `seen_at`: the latest time ever known (seconds since 1970): a drone's clock may be wrong.
    """

    current: SlotName | None = None
    previous: SlotName | None = None
    trial: bool = False
    counter: int = 0
    seen_at: int = 0
    slots: Mapping[str, Slot] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def inactive(self) -> SlotName:
        """The slot that is not flown."""
        return "b" if self.current == "a" else "a"

    @property
    def current_slot(self) -> Slot | None:
        """What is in the current slot."""
        return self.slots[self.current] if self.current else None

    def without_slot(self, name: SlotName) -> BoardState:
        """Return the state after a slot's content stopped counting."""
        slots = {key: slot for key, slot in self.slots.items() if key != name}
        return dataclasses.replace(
            self, slots=slots, previous=None if self.previous == name else self.previous
        )

    def with_event(self, at: int, event: str, slot: Slot | None, detail: str = "") -> BoardState:
        """Return the state with an event more in its history."""
        row = {
            "at": at,
            "event": event,
            "release": slot.release if slot else None,
            "counter": slot.counter if slot else None,
            "detail": detail,
        }
        return dataclasses.replace(self, history=(*self.history, row)[-MAX_HISTORY:])


def load_state(root: Path) -> BoardState:
    """Read a board's state; a new board has an empty one.

    Raises:
        InputError: it cannot be read, or is malformed: somebody else wrote it.
    """
    place = root / STATE_FILE
    try:
        with place.open("rb") as file:
            data = file.read(MAX_STATE_BYTES)
    except FileNotFoundError:
        return BoardState()
    except OSError as error:
        raise InputError(f"cannot read {place}: {error.strerror}") from None
    document = canonical.decode(data, str(place))
    if document.pop("schema", None) != SCHEMA:
        raise InputError(f"{place} is of another schema than {SCHEMA}: use the aerogaze that wrote it")
    try:
        slots = {
            name: Slot(**{**slot, "measured": tuple(slot["measured"])})
            for name, slot in document.pop("slots").items()
        }
        state = BoardState(slots=slots, **{**document, "history": tuple(document["history"])})
        _check_types(state)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{place} is malformed ({error}): it was changed by somebody else") from None
    named = {state.current, state.previous} - {None}
    if not named <= set(slots) <= {"a", "b"} or (state.current and state.current == state.previous):
        raise InputError(f"{place} names slots that are not there: it was changed by somebody else")
    return state


def _check_types(state: BoardState) -> None:
    """See that each value is of the kind that is written.

    Raises:
        TypeError: one is not.
    """
    texts, numbers = [], [state.counter, state.seen_at]
    for slot in state.slots.values():
        texts += [slot.id, slot.release, slot.precision, slot.engine, slot.why]
        numbers += [slot.counter, slot.installed_at]
        if not all(isinstance(row, dict) for row in slot.measured):
            raise TypeError("what was measured is no table")
    for row in state.history:
        texts += [row["event"], row["detail"], "" if row["release"] is None else row["release"]]
        numbers += [row["at"], 0 if row["counter"] is None else row["counter"]]
    for name in (state.current, state.previous):
        if name not in (None, "a", "b"):
            raise TypeError(f"slot {name!r:.40}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.40} is no text")
    for number in numbers:
        if type(number) is not int or not 0 <= number < MAX_TIMESTAMP:
            raise TypeError(f"{number!r:.40} is no counter or time")
    if not isinstance(state.trial, bool):
        raise TypeError(f"trial is {state.trial!r:.40}")


def save_state(disk: DurableDisk, root: Path, state: BoardState) -> None:
    """Write a board's state with one rename."""
    document = {"schema": SCHEMA, **dataclasses.asdict(state)}
    disk.replace(root / STATE_FILE, canonical.encode(document))
