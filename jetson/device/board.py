"""A board: two slots, one small state file that says which is flown, and how to change that safely.

    ROOT/state.json    which slot is flown; changed by one rename
    ROOT/trust.json    whose signatures count
    ROOT/config.json   its owner's settings
    ROOT/slots/a, b    each: manifest, signatures, release/, caches/, engines/

A slot stops counting before its content is touched, and counts again only when it is whole, on the disk,
and was tried. So whatever is cut off at whatever step, the state names a whole release.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.hardware.board import Facts
from jetson.bundle.archive import PURPOSE
from jetson.bundle.manifest import Manifest, parse_manifest
from jetson.device.durable_disk import Disk
from jetson.device.engine_trial import Engines, Say
from jetson.device.precision_policy import Policy
from jetson.device.service import Service, check_times
from jetson.device.slot_state import Slot, SlotName, State, load_state, save_state
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import Signatures, check_signatures, parse_signatures, short
from jetson.signing.trust import Trust, parse_trust, succeed

TRUST = "trust.json"
BUSY = "another aerogaze command works on the board"


class BusyError(InputError):
    """Another command works on the board."""


@dataclass
class Board:
    """A board's folder with all that is done to it; every part can be another one in tests.

    Raises (all methods):
        InputError: the folder cannot be read or written, or another command works on it.
        CheckError: a signature, hash, or trial did not hold. What was flown before is flown then.
    """

    root: Path
    facts: Facts
    engines: Engines
    policy: Policy
    service: Service
    disk: Disk = field(default_factory=Disk)
    clock: Callable[[], float] = time.time
    say: Say = lambda line: None

    def slot(self, name: SlotName) -> Path:
        """Return a slot's folder."""
        return self.root / "slots" / name

    def release(self, name: SlotName) -> Path:
        """Return the folder of the release in a slot: what `aerogaze run --release` takes."""
        return self.slot(name) / "release"

    def state(self) -> State:
        """Return what the board knows of its slots."""
        return load_state(self.root)

    @property
    def trusted(self) -> bool:
        """Whether it trusts anybody yet."""
        return (self.root / TRUST).exists()

    def trust(self) -> Trust:
        """Return whose signatures count.

        Raises:
            InputError: nobody's yet.
        """
        place = self.root / TRUST
        try:
            document = canonical.decode(place.read_bytes(), str(place))
        except FileNotFoundError:
            raise InputError(
                f"the board {self.root} trusts no key yet: aerogaze device trust k.pub --root {self.root}"
            ) from None
        return parse_trust(document, str(place))

    def set_trust(self, new: Trust, signatures: Signatures | None) -> Trust:
        """Trust these keys from now on: the first time anybody's, later only signed by those before.

        `signatures`: the new trust document's; None for a bare public key.
        """
        with self.locked():
            if self.trusted:
                old = self.trust()
                if old.document() == new.document():
                    return new
                if signatures is None:
                    raise CheckError(
                        f"the board trusts {', '.join(map(short, old.keys))} already; others need a trust "
                        "document signed by these: aerogaze keys trust"
                    )
                succeed(old, new, signatures)
            self.disk.replace(self.root / TRUST, canonical.encode(new.document()))
        return new

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others out, and turn what the system says against writing into one line."""
        try:
            self._make_root()
            with (self.root / "lock").open("a") as lock:
                with suppress(PermissionError):  # another's: who may read it sees that somebody works here
                    os.fchmod(lock.fileno(), 0o644)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BusyError(f"{BUSY} {self.root}: wait until it has ended") from None
                yield
        except OSError as error:
            if error.errno is None:
                raise
            why = os.strerror(error.errno) + ("; free some space" if error.errno == errno.ENOSPC else "")
            raise InputError(f"cannot write the board {self.root}: {why}; what it flies is whole") from error

    def _make_root(self) -> None:
        missing = [place for place in (self.root, *self.root.parents) if not place.exists()]
        for place in reversed(missing):
            self.disk.mkdir(place)

    def boot(self) -> State:
        """Mend what a power cut left, before the service starts: a trial never marked good goes back.

        Nothing is written where there is none, nor while an install, which restarts the service, watches it.
        """
        state = self.state()
        if not state.trial:
            return state
        try:
            with self.locked():
                return self._mend()
        except BusyError:
            return state

    def to_fly(self) -> tuple[SlotName, Slot] | None:
        """Return the slot to fly: not one on trial that nobody watches, even where `boot` could not go back,
        as on a disk that cannot be written.
        """
        state = self.state()
        back = state.trial and state.previous and not self._watched()
        name = state.previous if back else state.current
        return (name, state.slots[name]) if name else None

    def _watched(self) -> bool:
        """Say whether another command works on the board."""
        try:
            with (self.root / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def rollback(self) -> State:
        """Go back to the previous slot, watched like any switch."""
        nothing = InputError(f"the board {self.root} has no previous release to go back to")
        check_times(self.service)
        if self.state().previous is None:
            raise nothing  # and nothing was written, not even a folder
        with self.locked():
            state = self._mend()
            if state.previous is None:
                raise nothing
            self.check_slot(state.previous)
            return self.switch(state, state.previous, "rollback")

    def check_slot(self, name: SlotName) -> Manifest:
        """See that a slot's files are those that were signed by keys trusted now."""
        slot, what = self.slot(name), f"slot {name}"
        try:
            text = (slot / "manifest.json").read_bytes()
            signed = canonical.decode((slot / "signatures.json").read_bytes(), f"{what}: signatures.json")
            signatures = parse_signatures(signed, what)
            check_signatures(signatures, PURPOSE, text, what)
            self.trust().check(sorted(signatures), what)
            manifest = parse_manifest(canonical.decode(text, f"{what}: manifest.json"))
            for file in manifest.files:
                path = slot / ("caches" if file.timing_cache else "release") / file.name
                if path.stat().st_size != file.size_bytes or sha256(path) != file.sha256:
                    raise CheckError(f"{what}: {file.name} is not the file that was signed: install it again")
        except FileNotFoundError as error:
            raise CheckError(f"{what} lacks {Path(error.filename).name}: install it again") from None
        if hashlib.sha256(text).hexdigest() != self.state().slots[name].id:
            raise CheckError(f"{what} is not the release that was installed there: install it again")
        return manifest

    def switch(self, state: State, name: SlotName, event: str) -> State:
        """Fly a whole slot: one rename, then restart and watch; mark it good, or go back."""
        slot = state.slots[name]
        # What was never marked good, as a first release whose trial was cut off, is nothing to go back to.
        previous = None if state.trial else state.current
        trial = dataclasses.replace(state, current=name, previous=previous, trial=True)
        try:
            save_state(self.disk, self.root, trial)
            self.say(f"switched to slot {name}; {self.service.told}")
            self._start(trial)
            now = int(self.clock())
            good = dataclasses.replace(
                trial,
                trial=False,
                counter=max(trial.counter, slot.counter),
                seen_at=max(trial.seen_at, now),
            ).noted(now, event, slot, slot.why)
            save_state(self.disk, self.root, good)
        except (CheckError, OSError, KeyboardInterrupt) as error:
            why = str(error) or "interrupted"
            back = self._back(trial, why)
            if not isinstance(error, CheckError):
                raise
            raise CheckError(
                f"{slot.release} counter {slot.counter} did not stay healthy: {why}; "
                + (f"back to counter {back.flown.counter}" if back.flown else "nothing is flown now")
            ) from None
        self.say("marked good")
        return good

    def note(self, state: State, event: str, slot: Slot | None, detail: str) -> State:
        """Put an event into the history."""
        noted = state.noted(int(self.clock()), event, slot, detail)
        save_state(self.disk, self.root, noted)
        return noted

    def _mend(self, restart: bool = False) -> State:
        state = self.state()
        if state.trial and state.previous is not None:
            return self._back(state, "was never marked good", restart)
        return state

    def mend(self) -> State:
        """Go back from a trial that nobody watches any more, with the service; call it locked."""
        return self._mend(restart=True)

    def _back(self, trial: State, why: str, restart: bool = True) -> State:
        assert trial.current is not None
        bad = trial.slots[trial.current]
        back = dataclasses.replace(trial, current=trial.previous, previous=None, trial=False)
        back = back.without(trial.current).noted(int(self.clock()), "back", bad, why)
        save_state(self.disk, self.root, back)
        self.say(f"went back: {bad.release} counter {bad.counter} {why}")
        if restart and back.flown:
            try:
                self._start(back, watch=False)
            except CheckError as error:  # the state is right; the service is for its owner to mend
                self.say(f"the service did not restart on the old release: {error}")
        return back

    def _start(self, state: State, watch: bool = True) -> None:
        assert state.current is not None
        assert state.flown is not None
        self.service.restart(self.release(state.current), state.flown.precision)
        if watch:
            self.service.watch()
