"""Installing a bundle on a board: verify, fit, write, build, try, choose, switch, watch."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path

from edge.core.errors import CheckError, InputError
from edge.release.manifest import load_release
from jetson.bundle.archive import FileSink, SignedManifest, open_bundle, read_bundle
from jetson.bundle.manifest import BundleFile, BundleManifest
from jetson.device import precision_policy as policy
from jetson.device.arming_interlock import Autopilot
from jetson.device.board import DeviceBoard
from jetson.device.compatibility import check_compatibility
from jetson.device.service import check_revert_time
from jetson.device.slot_state import BoardState, Slot, SlotName, save_state

SPARE_BYTES = 16 << 20
"""Kept free on the disk beside the release."""
ENGINE_FACTOR = 2
"""An engine with its copy while it is built, against the graphs' size: a guess on the safe side."""

Reader = Callable[[FileSink], SignedManifest]


def install(board: DeviceBoard, place: Path, autopilot: Autopilot, reinstall: bool = False) -> BoardState:
    """Put a bundle into the slot that is not flown, try it there, and fly it.

    The same release again changes nothing unless `reinstall`, or its first trial was cut off.

    Raises:
        InputError: the bundle or board cannot be read or written, or another command works on the board.
        CheckError: signature, fit, golden set, policy, autopilot or health did not hold. What was flown
            before is flown then.
    """
    check_revert_time(board.service)
    with ExitStack() as held:
        file = held.enter_context(open_bundle(place))
        held.enter_context(autopilot.deny_arming())
        autopilot.check_disarmed()
        trust = board.load_trust()
        board.log("verifying the signature and every byte")
        sealed = read_bundle(file, str(place), trust)
        manifest, now = sealed.manifest, board.clock()
        held.enter_context(board.lock())  # what is refused until here has written nothing at all
        check_compatibility(manifest, board.facts, board.read_state(), now, version("aerogaze"))
        state = board.recover()
        same = state.current_slot is not None and state.current_slot.id == manifest.id
        if same and not reinstall and not state.trial:
            board.log("this release is flown already")
            return state
        # A signed override may repeat the counter of a slot that is not flown, and replaces it.
        kept = [s for n, s in state.slots.items() if n == state.current or manifest.over is None]
        if any(s.counter == manifest.counter and s.id != manifest.id for s in kept):
            raise CheckError(
                f"another release with counter {manifest.counter} is on the board: bundle this one with a "
                "higher --counter"
            )
        _check_space(board, manifest, state)
        name = state.inactive
        # What time it is, or was once, is kept with the first thing written: a clock may fall back.
        state = dataclasses.replace(state.without_slot(name), seen_at=max(state.seen_at, int(now)))
        save_state(board.disk, board.root, state)  # from here the slot counts for nothing
        try:
            board.log(f"writing slot {name}")
            _clear(board, name)
            file.seek(0)
            _write(board, name, sealed, read=lambda sink: read_bundle(file, str(place), trust, sink))
            slot = _try(board, name, sealed)
            autopilot.check_disarmed()
        except (CheckError, InputError, OSError) as error:
            # What is left there counts for nothing and goes next time, if the disk is what is wrong.
            with suppress(OSError):
                _clear(board, name)
                board.add_event(
                    state, "refused", None, f"{manifest.name} counter {manifest.counter}: {error}"
                )
            raise
        return board.switch(dataclasses.replace(state, slots={**state.slots, name: slot}), name, "install")


def _check_space(board: DeviceBoard, manifest: BundleManifest, state: BoardState) -> None:
    needed = manifest.size_bytes + SPARE_BYTES
    if board.backend.name == "tensorrt":
        needed += ENGINE_FACTOR * manifest.size_bytes
    inactive = board.slot_folder(state.inactive)
    freed = sum(p.lstat().st_size for p in inactive.rglob("*") if p.is_file()) if inactive.is_dir() else 0
    free = shutil.disk_usage(board.root).free + freed
    if free < needed:
        raise InputError(
            f"{board.root} has {free >> 20} MiB free, {needed >> 20} are needed: free some space"
        )


def _clear(board: DeviceBoard, name: SlotName) -> None:
    board.disk.mkdir(board.root / "slots")
    board.disk.remove(board.slot_folder(name))
    board.disk.sync(board.root / "slots")


def _write(board: DeviceBoard, name: SlotName, sealed: SignedManifest, read: Reader) -> None:
    disk, slot = board.disk, board.slot_folder(name)
    folders = [slot, *(slot / part for part in ("release", "caches", "engines"))]
    for folder in folders:
        disk.mkdir(folder)

    def sink(entry: BundleFile, blocks: Iterator[bytes]) -> None:
        disk.write(slot / ("caches" if entry.timing_cache else "release") / entry.name, blocks)

    again = read(sink)
    if again.texts() != sealed.texts():
        raise CheckError("the bundle changed while it was read: copy it to the board again")
    manifest, signatures = sealed.texts()
    disk.write(slot / "signatures.json", [signatures])
    disk.write(slot / "manifest.json", [manifest])
    for folder in reversed(folders):
        disk.sync(folder)


def _try(board: DeviceBoard, name: SlotName, sealed: SignedManifest) -> Slot:
    release = load_release(board.release_folder(name))
    manifest = sealed.manifest
    if release.name != manifest.name:
        raise CheckError(f"the bundle is of {manifest.name}, in it is {release.name}: bundle it again")
    engines = board.slot_folder(name) / "engines"
    board.backend.build(release, engines, board.log)
    board.disk.sync_tree(board.slot_folder(name))
    found = board.backend.measure(release, engines, board.log)
    best, why = policy.choose_precision(board.policy, found)
    board.log(why)
    return Slot(
        id=manifest.id,
        release=manifest.name,
        counter=manifest.counter,
        precision=best.precision,
        engine=board.backend.name,
        why=why,
        measured=tuple(dataclasses.asdict(one) for one in found),
        installed_at=int(board.clock()),
    )
