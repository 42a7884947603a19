"""State of a board's slots: one small file, `state.json`, that is replaced by one rename."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge.core.errors import InputError
from edge.core.guarded_files import is_missing, read_bytes
from jetson.device.durable_disk import DurableDisk
from jetson.signing import canonical_json

SlotName = Literal["a", "b"]
STATE_FILE = "state.json"
SCHEMA = 1
MAX_HISTORY = 50
"""Events that are kept."""
MAX_STATE_BYTES = 1 << 20
MAX_INTEGER = 1 << 40
"""Larger than any time in seconds since 1970 and than any counter."""


@dataclass(frozen=True)
class Slot:
    """Release that was completely written to a slot and tried there. The fields are keys of `state.json`.

    Attributes:
        id: SHA-256 of its manifest.
        release: Name of the release.
        counter: Release counter of its bundle.
        precision: The selected precision.
        engine: The engine that runs it.
        why: Why this precision was selected.
        measured: The fields of one `PrecisionMeasurement` per precision.
        installed_at: Time of the install, in seconds since 1970.
    """

    id: str
    release: str
    counter: int
    precision: str
    engine: str
    why: str
    measured: tuple[Mapping[str, Any], ...]
    installed_at: int


@dataclass(frozen=True)
class BoardState:
    """State of both slots and the history of the board. The fields are keys of `state.json`.

    Attributes:
        current: The slot that is flown.
        previous: The slot to go back to.
        trial: The current slot was switched to and is not yet marked good.
        counter: Highest counter that was marked good.
        seen_at: Latest time that the board has ever seen, in seconds since 1970. Its clock may fall back.
        slots: Content of each slot that counts as installed.
        history: Events, oldest first.
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
        """The content of the slot that is flown."""
        return self.slots[self.current] if self.current else None

    def without_slot(self, name: SlotName) -> BoardState:
        """Return the state in which a slot does not count as installed."""
        slots = {key: slot for key, slot in self.slots.items() if key != name}
        return dataclasses.replace(
            self, slots=slots, previous=None if self.previous == name else self.previous
        )

    def with_event(self, at: int, event: str, slot: Slot | None, detail: str = "") -> BoardState:
        """Return the state with one more event in its history.

        Args:
            at: Time of the event, in seconds since 1970.
            event: Kind of event: install, rollback, back or refused.
            slot: The slot that it concerns.
            detail: Explanation for the user.
        """
        row = {
            "at": at,
            "event": event,
            "release": slot.release if slot else None,
            "counter": slot.counter if slot else None,
            "detail": detail,
        }
        return dataclasses.replace(self, history=(*self.history, row)[-MAX_HISTORY:])


def bounded_time(seconds: float) -> int:
    """Return a time in whole seconds, within the range of `state.json`: a wrong clock may show any."""
    return int(min(max(seconds, 0), MAX_INTEGER - 1))


def load_state(root: Path) -> BoardState:
    """Read the state of a board; a board without the file has an empty state.

    Raises:
        InputError: The file cannot be read, or was not written by aerogaze.
    """
    path = root / STATE_FILE
    if is_missing(path):
        return BoardState()
    data = read_bytes(path, MAX_STATE_BYTES, "the state of a board: run it as its owner or as root")
    document = canonical_json.decode(data, str(path))
    if document.pop("schema", None) != SCHEMA:
        raise InputError(f"{path} has another schema than {SCHEMA}: use the aerogaze that wrote it")
    try:
        slots = {
            name: Slot(**{**slot, "measured": tuple(slot["measured"])})
            for name, slot in document.pop("slots").items()
        }
        state = BoardState(slots=slots, **{**document, "history": tuple(document["history"])})
        _check_types(state)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is malformed ({error}): another program changed it") from None
    referenced = {state.current, state.previous} - {None}
    if not referenced <= set(slots) <= {"a", "b"} or (state.current and state.current == state.previous):
        raise InputError(f"{path} names slots that do not exist: another program changed it")
    return state


def _check_types(state: BoardState) -> None:
    """Check the type of each value.

    Raises:
        TypeError: A value has another type than aerogaze writes.
    """
    texts, numbers = [], [state.counter, state.seen_at]
    for slot in state.slots.values():
        texts += [slot.id, slot.release, slot.precision, slot.engine, slot.why]
        numbers += [slot.counter, slot.installed_at]
        if not all(isinstance(row, dict) for row in slot.measured):
            raise TypeError("a measurement is not a table")
    for row in state.history:
        texts += [row["event"], row["detail"], "" if row["release"] is None else row["release"]]
        numbers += [row["at"], 0 if row["counter"] is None else row["counter"]]
    for name in (state.current, state.previous):
        if name not in (None, "a", "b"):
            raise TypeError(f"slot {name!r:.40}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.40} is not text")
    for number in numbers:
        # Not isinstance: bool is a subclass of int.
        if type(number) is not int or not 0 <= number < MAX_INTEGER:
            raise TypeError(f"{number!r:.40} is not a counter or time")
    if not isinstance(state.trial, bool):
        raise TypeError(f"trial is {state.trial!r:.40}")


def save_state(disk: DurableDisk, root: Path, state: BoardState) -> None:
    """Replace the state of a board by one rename."""
    document = {"schema": SCHEMA, **dataclasses.asdict(state)}
    disk.replace(root / STATE_FILE, canonical_json.encode(document))
