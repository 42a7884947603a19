"""What a board knows of its slots: one small file, written by rename. What it says is what is flown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge.errors import InputError
from jetson import canonical
from jetson.disk import Disk

SlotName = Literal["a", "b"]
STATE = "state.json"
SCHEMA = 1
REMEMBERED = 50
"""Events that are kept."""
LARGEST = 1 << 20


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
class State:
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
    def flown(self) -> Slot | None:
        """What is in the current slot."""
        return self.slots[self.current] if self.current else None

    def without(self, name: SlotName) -> State:
        """Return the state after a slot's content stopped counting."""
        slots = {key: slot for key, slot in self.slots.items() if key != name}
        return dataclasses.replace(
            self, slots=slots, previous=None if self.previous == name else self.previous
        )

    def noted(self, at: int, event: str, slot: Slot | None, detail: str = "") -> State:
        """Return the state with an event more in its history."""
        row = {
            "at": at,
            "event": event,
            "release": slot.release if slot else None,
            "counter": slot.counter if slot else None,
            "detail": detail,
        }
        return dataclasses.replace(self, history=(*self.history, row)[-REMEMBERED:])


def load_state(root: Path) -> State:
    """Read a board's state; a new board has an empty one.

    Raises:
        InputError: it cannot be read, or is malformed: somebody else wrote it.
    """
    place = root / STATE
    try:
        with place.open("rb") as file:
            data = file.read(LARGEST)
    except FileNotFoundError:
        return State()
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
        state = State(slots=slots, **{**document, "history": tuple(document["history"])})
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{place} is malformed ({error}): it was changed by somebody else") from None
    named = {state.current, state.previous} - {None}
    if not named <= set(slots) <= {"a", "b"} or (state.current and state.current == state.previous):
        raise InputError(f"{place} names slots that are not there: it was changed by somebody else")
    return state


def save_state(disk: Disk, root: Path, state: State) -> None:
    """Write a board's state with one rename."""
    document = {"schema": SCHEMA, **dataclasses.asdict(state)}
    disk.replace(root / STATE, canonical.encode(document))
