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
from edge.hardware.board import BoardFacts
from jetson.bundle.archive import BUNDLE_PURPOSE
from jetson.bundle.manifest import BundleManifest, parse_manifest
from jetson.device.durable_disk import DurableDisk
from jetson.device.engine_trial import EngineBackend, LogLine
from jetson.device.precision_policy import PrecisionPolicy
from jetson.device.service import Service, check_revert_time
from jetson.device.slot_state import BoardState, Slot, SlotName, load_state, save_state
from jetson.signing import canonical_json as canonical
from jetson.signing.keys import Signatures, parse_signatures, short_key_id, verify_signatures
from jetson.signing.trust import Trust, parse_trust, verify_succession

TRUST_FILE = "trust.json"
BUSY_MESSAGE = "another aerogaze command works on the board"


class BusyError(InputError):
    """Another command works on the board."""


@dataclass
class DeviceBoard:
    """A board's folder with all that is done to it; every part can be another one in tests.

    Raises (all methods):
        InputError: the folder cannot be read or written, or another command works on it.
        CheckError: a signature, hash, or trial did not hold. What was flown before is flown then.
    """

    root: Path
    facts: BoardFacts
    backend: EngineBackend
    policy: PrecisionPolicy
    service: Service
    disk: DurableDisk = field(default_factory=DurableDisk)
    clock: Callable[[], float] = time.time
    log: LogLine = lambda line: None

    def slot_folder(self, name: SlotName) -> Path:
        """Return a slot's folder."""
        return self.root / "slots" / name

    def release_folder(self, name: SlotName) -> Path:
        """Return the folder of the release in a slot: what `aerogaze run --release` takes."""
        return self.slot_folder(name) / "release"

    def read_state(self) -> BoardState:
        """Return what the board knows of its slots."""
        return load_state(self.root)

    @property
    def has_trust(self) -> bool:
        """Whether it trusts anybody yet."""
        return (self.root / TRUST_FILE).exists()

    def load_trust(self) -> Trust:
        """Return whose signatures count.

        Raises:
            InputError: nobody's yet.
        """
        place = self.root / TRUST_FILE
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
        with self.lock():
            if self.has_trust:
                old = self.load_trust()
                if old.to_dict() == new.to_dict():
                    return new
                if signatures is None:
                    raise CheckError(
                        f"the board trusts {', '.join(map(short_key_id, old.keys))} already; others need a trust "
                        "document signed by these: aerogaze keys trust"
                    )
                verify_succession(old, new, signatures)
            self.disk.replace(self.root / TRUST_FILE, canonical.encode(new.to_dict()))
        return new

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others out, and turn what the system says against writing into one line."""
        try:
            self._make_root()
            with (self.root / "lock").open("a") as lock:
                with suppress(PermissionError):  # another's: who may read it sees that somebody works here
                    os.fchmod(lock.fileno(), 0o644)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise BusyError(f"{BUSY_MESSAGE} {self.root}: wait until it has ended") from None
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

    def recover_at_boot(self) -> BoardState:
        """Mend what a power cut left, before the service starts: a trial never marked good goes back.

        Nothing is written where there is none, nor while an install, which restarts the service, watches it.
        """
        state = self.read_state()
        if not state.trial:
            return state
        try:
            with self.lock():
                return self._recover()
        except BusyError:
            return state

    def slot_to_run(self) -> tuple[SlotName, Slot] | None:
        """Return the slot to fly: not one on trial that nobody watches, even where `boot` could not go back,
        as on a disk that cannot be written.
        """
        state = self.read_state()
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

    def rollback(self) -> BoardState:
        """Go back to the previous slot, watched like any switch."""
        nothing = InputError(f"the board {self.root} has no previous release to go back to")
        check_revert_time(self.service)
        if self.read_state().previous is None:
            raise nothing  # and nothing was written, not even a folder
        with self.lock():
            state = self._recover()
            if state.previous is None:
                raise nothing
            self.verify_slot(state.previous)
            return self.switch(state, state.previous, "rollback")

    def verify_slot(self, name: SlotName) -> BundleManifest:
        """See that a slot's files are those that were signed by keys trusted now."""
        slot, what = self.slot_folder(name), f"slot {name}"
        try:
            text = (slot / "manifest.json").read_bytes()
            signed = canonical.decode((slot / "signatures.json").read_bytes(), f"{what}: signatures.json")
            signatures = parse_signatures(signed, what)
            verify_signatures(signatures, BUNDLE_PURPOSE, text, what)
            self.load_trust().require_threshold(sorted(signatures), what)
            manifest = parse_manifest(canonical.decode(text, f"{what}: manifest.json"))
            for file in manifest.files:
                path = slot / ("caches" if file.timing_cache else "release") / file.name
                if path.stat().st_size != file.size_bytes or sha256(path) != file.sha256:
                    raise CheckError(f"{what}: {file.name} is not the file that was signed: install it again")
        except FileNotFoundError as error:
            raise CheckError(f"{what} lacks {Path(error.filename).name}: install it again") from None
        if hashlib.sha256(text).hexdigest() != self.read_state().slots[name].id:
            raise CheckError(f"{what} is not the release that was installed there: install it again")
        return manifest

    def switch(self, state: BoardState, name: SlotName, event: str) -> BoardState:
        """Fly a whole slot: one rename, then restart and watch; mark it good, or go back."""
        slot = state.slots[name]
        # What was never marked good, as a first release whose trial was cut off, is nothing to go back to.
        previous = None if state.trial else state.current
        trial = dataclasses.replace(state, current=name, previous=previous, trial=True)
        try:
            save_state(self.disk, self.root, trial)
            self.log(f"switched to slot {name}; {self.service.told}")
            self._start(trial)
            now = int(self.clock())
            good = dataclasses.replace(
                trial,
                trial=False,
                counter=max(trial.counter, slot.counter),
                seen_at=max(trial.seen_at, now),
            ).with_event(now, event, slot, slot.why)
            save_state(self.disk, self.root, good)
        except (CheckError, OSError, KeyboardInterrupt) as error:
            why = str(error) or "interrupted"
            back = self._revert(trial, why)
            if not isinstance(error, CheckError):
                raise
            raise CheckError(
                f"{slot.release} counter {slot.counter} did not stay healthy: {why}; "
                + (
                    f"back to counter {back.current_slot.counter}"
                    if back.current_slot
                    else "nothing is flown now"
                )
            ) from None
        self.log("marked good")
        return good

    def add_event(self, state: BoardState, event: str, slot: Slot | None, detail: str) -> BoardState:
        """Put an event into the history."""
        noted = state.with_event(int(self.clock()), event, slot, detail)
        save_state(self.disk, self.root, noted)
        return noted

    def _recover(self, restart: bool = False) -> BoardState:
        state = self.read_state()
        if state.trial and state.previous is not None:
            return self._revert(state, "was never marked good", restart)
        return state

    def recover(self) -> BoardState:
        """Go back from a trial that nobody watches any more, with the service; call it locked."""
        return self._recover(restart=True)

    def _revert(self, trial: BoardState, why: str, restart: bool = True) -> BoardState:
        assert trial.current is not None
        bad = trial.slots[trial.current]
        back = dataclasses.replace(trial, current=trial.previous, previous=None, trial=False)
        back = back.without_slot(trial.current).with_event(int(self.clock()), "back", bad, why)
        save_state(self.disk, self.root, back)
        self.log(f"went back: {bad.release} counter {bad.counter} {why}")
        if restart and back.current_slot:
            try:
                self._start(back, watch=False)
            except CheckError as error:  # the state is right; the service is for its owner to mend
                self.log(f"the service did not restart on the old release: {error}")
        return back

    def _start(self, state: BoardState, watch: bool = True) -> None:
        assert state.current is not None
        assert state.current_slot is not None
        self.service.restart(self.release_folder(state.current), state.current_slot.precision)
        if watch:
            self.service.watch()
