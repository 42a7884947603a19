"""A/B slots of a board: which release is flown, and how to switch so that a power cut does no harm.

    ROOT/state.json    which slot is flown; replaced by one rename
    ROOT/trust.json    the trusted keys
    ROOT/config.json   settings of the board's owner
    ROOT/lock          held by the command that changes the board
    ROOT/running.json  that command, as long as it runs
    ROOT/slots/a, b    each: manifest, signatures, release/, caches/, engines/

A slot stops counting as installed before its content is changed. It counts again only when it is complete,
synchronized to the disk, and was tried. Therefore the state names a complete release, whichever step is
interrupted.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.core.locks import acquire_lock, is_in_use, is_running, mark_in_use, running_marker, running_process
from edge.hardware.board import BoardFacts
from jetson.bundle.archive import BUNDLE_PURPOSE
from jetson.bundle.manifest import BundleManifest, parse_manifest
from jetson.device.durable_disk import DurableDisk
from jetson.device.engine_trial import EngineBackend, LogLine
from jetson.device.precision_policy import PrecisionPolicy
from jetson.device.service import CommandService, Service, check_revert_time
from jetson.device.slot_state import BoardState, Slot, SlotName, bounded_time, load_state, save_state
from jetson.device.time_limits import longest_start_s, measure_start
from jetson.signing import canonical_json
from jetson.signing.keys import (
    Signatures,
    parse_signatures,
    read_limited,
    short_key_id,
    verify_signatures,
)
from jetson.signing.trust import Trust, parse_trust, verify_succession

TRUST_FILE = "trust.json"
MANIFEST_FILE = "manifest.json"
"""The signed manifest of a slot. Who flies the slot holds a lock on it."""
LOCK_FILE = "lock"
"""Held by the command that changes the board. Only the owner of the folder can open it."""
RUNNING_FILE = "running.json"
"""Marker of that command for the service, which another user runs."""
BUSY_MESSAGE = "another aerogaze command works on the board"
"""Start of an error that `aerogaze flash` reads from the board: boards with older versions send it, too."""


class BusyError(InputError):
    """Another command holds the lock of the board."""


@dataclass
class DeviceBoard:
    """Folder of a board and all operations on it. Tests replace its parts.

    Attributes:
        root: The folder.
        facts: Board and versions of JetPack and TensorRT.
        backend: Builds and measures the engines.
        policy: Selects the precision.
        service: Runs the release.
        disk: Makes durable changes.
        clock: Returns the time in seconds since 1970.
        log: Receives lines about the progress.
        measure_start: Measures the start of a release: its folder, precision and engine.

    Raises (all methods):
        InputError: The folder cannot be read or written, or another command works on it.
        CheckError: A signature, hash or trial failed. The release that was flown before is flown then.
    """

    root: Path
    facts: BoardFacts
    backend: EngineBackend
    policy: PrecisionPolicy
    service: Service
    disk: DurableDisk = field(default_factory=DurableDisk)
    clock: Callable[[], float] = time.time
    log: LogLine = lambda line: None
    measure_start: Callable[[Path, str, str], float] = measure_start

    def slot_folder(self, name: SlotName) -> Path:
        """Return the folder of a slot."""
        return self.root / "slots" / name

    def release_folder(self, name: SlotName) -> Path:
        """Return the folder of the release in a slot, as `aerogaze run --release` takes it."""
        return self.slot_folder(name) / "release"

    def now(self) -> int:
        """Return the time of the board's clock in seconds since 1970, within what `state.json` can hold."""
        return bounded_time(self.clock())

    def read_state(self) -> BoardState:
        """Return the state of the slots."""
        return load_state(self.root)

    @property
    def has_trust(self) -> bool:
        """Whether trusted keys are set."""
        return (self.root / TRUST_FILE).exists()

    def load_trust(self) -> Trust:
        """Return the trusted keys.

        Raises:
            InputError: None are set yet.
        """
        path = self.root / TRUST_FILE
        if not self.has_trust:
            raise InputError(
                f"the board {self.root} trusts no key yet: aerogaze device trust k.pub --root {self.root}"
            )
        document = canonical_json.decode(
            read_limited(path, "the keys that the board trusts", accepts_pipe=False), str(path)
        )
        return parse_trust(document, str(path))

    def set_trust(self, new: Trust, signatures: Signatures | None) -> Trust:
        """Set the trusted keys.

        The first keys are accepted from anybody. Later ones need the signatures of the keys before them.

        Args:
            new: The trust to set.
            signatures: The signatures of its trust document; None for a public key without a document.
        """
        with self.lock():
            if self.has_trust:
                old = self.load_trust()
                if old.to_dict() == new.to_dict():
                    return new
                if signatures is None:
                    raise CheckError(
                        f"the board trusts {', '.join(map(short_key_id, old.keys))} already; make a trust "
                        "document of the new keys with aerogaze keys trust, signed by the trusted keys"
                    )
                verify_succession(old, new, signatures)
            self.disk.replace(self.root / TRUST_FILE, canonical_json.encode(new.to_dict()))
        return new

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other commands while the block runs, and turn system errors into `InputError`."""
        try:
            self._make_root()
            handle = acquire_lock(self.root / LOCK_FILE)
            if handle is None:
                raise BusyError(
                    f"{BUSY_MESSAGE} {self.root}{self._describe_holder()}: wait until it has ended"
                )
            try:
                with running_marker(self.root / RUNNING_FILE):
                    yield
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno is None:  # raised by Python code: a defect, not a fault of the disk
                raise
            reason = os.strerror(error.errno) + ("; free some space" if error.errno == errno.ENOSPC else "")
            raise InputError(
                f"cannot write the board {self.root}: {reason}; the release that it flies is not affected"
            ) from error

    def _make_root(self) -> None:
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        for folder in reversed(missing):
            self.disk.mkdir(folder)

    def recover_at_boot(self) -> BoardState:
        """Revert an unfinished install after a power cut, before the service starts.

        Writes nothing if no slot is on trial. Also leaves a trial alone while the install that watches it
        holds the lock: that install restarts the service, which calls this.
        """
        state = self.read_state()
        if not state.trial:
            return state
        try:
            with self.lock():
                return self._recover(restart=False)
        except BusyError:
            return state

    def slot_to_run(self) -> tuple[SlotName, Slot] | None:
        """Return the slot that the service must run; None if there is no release.

        That is the previous slot if the current one is on trial and no install watches it, even if
        `recover_at_boot` could not write that to the disk.
        """
        state = self.read_state()
        while (name := state.previous) and state.trial and not is_running(self.root / RUNNING_FILE):
            # The install may have ended between the two looks, and marked the release good: look again.
            before, state = state, self.read_state()
            if state == before:
                self.log(f"no install watches slot {state.current}, which is on trial: flying slot {name}")
                return name, state.slots[name]
        return (state.current, state.slots[state.current]) if state.current else None

    def mark_flown(self, name: SlotName) -> None:
        """Mark a slot as flown by this process, and by the program that replaces it, until that ends.

        An install that watches the slot sees it. A slot that cannot be marked is flown all the same.
        """
        mark_in_use(self.slot_folder(name) / MANIFEST_FILE)

    def is_flown(self, name: SlotName) -> bool:
        """Return whether a program that `device exec` has started flies what is in a slot now."""
        return is_in_use(self.slot_folder(name) / MANIFEST_FILE)

    def rollback(self) -> BoardState:
        """Switch to the previous slot, with the same health checks as an install."""
        no_previous = InputError(f"the board {self.root} has no previous release to go back to")
        check_revert_time(self.service)
        # Checked before the lock, too: a rollback that is refused creates no folder.
        if self.read_state().previous is None:
            raise no_previous
        with self.lock():
            state = self._recover(restart=False)
            if state.previous is None:
                raise no_previous
            self.verify_slot(state.previous)
            return self.switch_to(state, state.previous, "rollback")

    def verify_slot(self, name: SlotName) -> BundleManifest:
        """Check that the files of a slot are those that the trusted keys have signed."""
        folder, label = self.slot_folder(name), f"slot {name}"
        try:
            text = (folder / MANIFEST_FILE).read_bytes()
            document = canonical_json.decode(
                (folder / "signatures.json").read_bytes(), f"{label}: signatures.json"
            )
            signatures = parse_signatures(document, label)
            verify_signatures(signatures, BUNDLE_PURPOSE, text, label)
            self.load_trust().require_threshold(sorted(signatures), label)
            manifest = parse_manifest(canonical_json.decode(text, f"{label}: manifest.json"))
            for file in manifest.files:
                path = folder / ("caches" if file.timing_cache else "release") / file.name
                if path.stat().st_size != file.size_bytes or sha256(path) != file.sha256:
                    raise CheckError(
                        f"{label}: {file.name} is not the file that was signed: install the bundle again"
                    )
        except FileNotFoundError as error:
            raise CheckError(f"{label} lacks {Path(error.filename).name}: install the bundle again") from None
        if hashlib.sha256(text).hexdigest() != self.read_state().slots[name].id:
            raise CheckError(f"{label} is not the release that was installed there: install the bundle again")
        return manifest

    def switch_to(self, state: BoardState, name: SlotName, event: str) -> BoardState:
        """Fly the release of another slot: rename the state, restart the service, watch it, mark it good.

        Goes back to the slot before if anything fails. Must be called with the lock held.

        Args:
            state: The present state.
            name: The slot to switch to.
            event: What the history calls the switch.
        """
        slot = state.slots[name]
        # A slot that was never marked good, such as a first release whose trial was interrupted, is not
        # a slot to go back to.
        previous = None if state.trial else state.current
        trial = dataclasses.replace(state, current=name, previous=previous, trial=True)
        must_tell = state.current is not None and self.is_flown(state.current)
        try:
            save_state(self.disk, self.root, trial)
            self.log(f"switched to slot {name}; {self.service.description}")
            self._restart_service(trial)
            service = self._limited_service(trial)
            service.watch()
            if isinstance(service, CommandService):
                self._check_flown(service, name, state.current, must_tell)
            now = self.now()
            good = dataclasses.replace(
                trial,
                trial=False,
                counter=max(trial.counter, slot.counter),
                seen_at=max(trial.seen_at, now),
            ).with_event(now, event, slot, slot.why)
            save_state(self.disk, self.root, good)
        # Ctrl-C, SIGTERM and SIGHUP arrive as KeyboardInterrupt (see jetson.cli.device).
        except (CheckError, OSError, KeyboardInterrupt) as error:
            reason = str(error) or "interrupted"
            reverted = self._revert(trial, reason)
            if not isinstance(error, CheckError):
                raise
            current = reverted.current_slot
            raise CheckError(
                f"{slot.release} counter {slot.counter} did not stay healthy: {reason}; "
                + (f"back to counter {current.counter}" if current else "nothing is flown now")
            ) from None
        self.log("marked good")
        return good

    def add_event(self, state: BoardState, event: str, slot: Slot | None, detail: str) -> BoardState:
        """Write an event into the history, and return the new state."""
        changed = state.with_event(self.now(), event, slot, detail)
        save_state(self.disk, self.root, changed)
        return changed

    def reset_clock(self) -> tuple[int, int]:
        """Forget the latest time that the board has seen, and remember that of its clock now.

        Returns:
            The time that was remembered, and the new one, in seconds since 1970.

        Raises:
            InputError: The board cannot be written, or another command works on it.
        """
        with self.lock():
            state, now = self.read_state(), self.now()
            save_state(self.disk, self.root, dataclasses.replace(state, seen_at=now))
        return state.seen_at, now

    def recover(self) -> BoardState:
        """Revert a trial whose install was interrupted, and restart the service.

        Must be called with the lock held.
        """
        return self._recover(restart=True)

    def _describe_holder(self) -> str:
        """Return the command and the process that work on the board, for a message; empty if unknown."""
        process = running_process(self.root / RUNNING_FILE)
        if process is None:
            return ""
        try:
            words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
            command = " ".join(words[words.index("device") :][:2])
        except (OSError, ValueError):  # it has just ended, or is a program that uses this module
            command = ""
        return f" ({', '.join(filter(None, (command, f'process {process}')))})"

    def _recover(self, restart: bool) -> BoardState:
        state = self.read_state()
        if state.trial and state.previous is not None:
            return self._revert(state, "was never marked good", restart)
        return state

    def _revert(self, trial: BoardState, reason: str, restart: bool = True) -> BoardState:
        assert trial.current is not None
        failed = trial.slots[trial.current]
        state = dataclasses.replace(trial, current=trial.previous, previous=None, trial=False)
        state = state.without_slot(trial.current).with_event(self.now(), "back", failed, reason)
        save_state(self.disk, self.root, state)
        self.log(f"went back: {failed.release} counter {failed.counter} {reason}")
        if restart and state.current_slot:
            try:
                self._restart_service(state)
            except CheckError as error:  # the state is correct; only the owner can repair the service
                self.log(f"the service did not restart on the old release: {error}")
        return state

    def _restart_service(self, state: BoardState) -> None:
        assert state.current is not None
        assert state.current_slot is not None
        folder, precision = self.release_folder(state.current), state.current_slot.precision
        self._limited_service(state).restart(folder, precision)

    def _check_flown(
        self, service: CommandService, name: SlotName, other: SlotName | None, must_tell: bool
    ) -> None:
        """Check that the service flies the slot that was watched. Its health says nothing about that.

        Args:
            service: The service. One without health checks may still be starting, and gets `watch_s`.
            name: The slot.
            other: The slot that was flown before, if any.
            must_tell: The service was started by `device exec` before. A service that never was has its own
                way to find its release, which nobody can check.

        Raises:
            CheckError: It flies the other slot, or none.
        """
        deadline = time.monotonic() + (0.0 if service.health_command else service.limits(None).watch_s)
        while not self.is_flown(name):
            flies_other = other is not None and self.is_flown(other)
            if not flies_other and not must_tell:
                self.log("the service was not started by device exec: which slot it flies is not verified")
                return
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                flown = f"slot {other}" if flies_other else "no slot"
                raise CheckError(f"the service flies {flown} instead of slot {name}")
            time.sleep(min(service.every_s, remaining))

    def _limited_service(self, state: BoardState) -> Service:
        return self.service.limited(longest_start_s(state.slots.values()))
