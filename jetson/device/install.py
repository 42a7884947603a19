"""Install of a bundle: verify it, check it against the board, write it, try its engines, switch to it."""

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
from jetson.device.arming_interlock import Autopilot
from jetson.device.board import MANIFEST_FILE, DeviceBoard
from jetson.device.compatibility import check_compatibility
from jetson.device.precision_policy import choose_precision
from jetson.device.service import CommandService, check_revert_time
from jetson.device.slot_state import BoardState, Slot, SlotName, save_state

SPARE_BYTES = 16 << 20
"""Space on the disk that stays free."""
ENGINE_FACTOR = 2
"""Space for engines and their copies while they are built, per byte of the graphs: a safe estimate."""


def install(board: DeviceBoard, path: Path, autopilot: Autopilot, reinstall: bool = False) -> BoardState:
    """Write a bundle to the slot that is not flown, try it there, and switch to it.

    A bundle of the release that is flown changes nothing, unless `reinstall` is set or the first trial of
    this release was interrupted.

    Args:
        board: The board.
        path: The bundle.
        autopilot: Must report disarmed before the install and before the switch.
        reinstall: Install the bundle also if its release is the current one.

    Returns:
        The new state of the board.

    Raises:
        InputError: The bundle cannot be read, the board cannot be written, or another command works on it.
        CheckError: A check failed: signature, compatibility, golden set, policy, autopilot or health. The
            release that was flown before is flown then.
    """
    check_revert_time(board.service)
    with ExitStack() as stack:
        file = stack.enter_context(open_bundle(path))
        stack.enter_context(autopilot.deny_arming())
        autopilot.check_disarmed()
        trust = board.load_trust()
        board.log("verifying the signature and every byte")
        signed = read_bundle(file, str(path), trust)
        manifest, now = signed.manifest, board.now()
        # A bundle that is rejected up to here leaves no trace on the disk: the lock creates the folder.
        stack.enter_context(board.lock())
        check_compatibility(manifest, board.facts, board.read_state(), now, version("aerogaze"))
        state = board.recover()
        is_current = state.current_slot is not None and state.current_slot.id == manifest.id
        if is_current and not reinstall and not state.trial:
            board.log("this release is flown already")
            return state
        _check_counter_is_unique(manifest, state)
        _check_space(board, manifest, state)
        name = state.inactive
        # The time is stored with the first write: the clock may fall back later.
        state = dataclasses.replace(state.without_slot(name), seen_at=max(state.seen_at, now))
        save_state(board.disk, board.root, state)  # from here on the slot does not count as installed
        try:
            board.log(f"writing slot {name}")
            _clear_slot(board, name)
            # The second read of the same open file writes what the first one has verified.
            file.seek(0)
            _write_slot(board, name, signed, lambda sink: read_bundle(file, str(path), trust, sink))
            slot = _try_slot(board, name, signed.manifest)
            autopilot.check_disarmed()
        except (CheckError, InputError, OSError) as error:
            # If the disk is at fault, the remains of the slot stay; the next install removes them.
            with suppress(OSError):
                _clear_slot(board, name)
                detail = f"{manifest.name} counter {manifest.counter}: {error}"
                board.add_event(state, "refused", None, detail)
            raise
        state = dataclasses.replace(state, slots={**state.slots, name: slot})
        return board.switch_to(state, name, "install")


def _check_counter_is_unique(manifest: BundleManifest, state: BoardState) -> None:
    """Check that no slot which stays has another release with the same counter.

    A bundle with `over` replaces the slot that is not flown, and may repeat its counter.
    """
    kept = [slot for name, slot in state.slots.items() if name == state.current or manifest.over is None]
    if any(slot.counter == manifest.counter and slot.id != manifest.id for slot in kept):
        raise CheckError(
            f"another release with counter {manifest.counter} is on the board: bundle this one with a "
            "higher --counter"
        )


def _check_space(board: DeviceBoard, manifest: BundleManifest, state: BoardState) -> None:
    needed = manifest.size_bytes + SPARE_BYTES
    if board.backend.name == "tensorrt":
        needed += ENGINE_FACTOR * manifest.size_bytes
    inactive = board.slot_folder(state.inactive)
    reclaimed = (
        sum(path.lstat().st_size for path in inactive.rglob("*") if path.is_file())
        if inactive.is_dir()
        else 0
    )
    free = shutil.disk_usage(board.root).free + reclaimed
    if free < needed:
        raise InputError(
            f"{board.root} has {free >> 20} MiB free, {needed >> 20} are needed: free some space"
        )


def _clear_slot(board: DeviceBoard, name: SlotName) -> None:
    board.disk.mkdir(board.root / "slots")
    board.disk.remove(board.slot_folder(name))
    board.disk.sync(board.root / "slots")


def _write_slot(
    board: DeviceBoard,
    name: SlotName,
    signed: SignedManifest,
    read: Callable[[FileSink], SignedManifest],
) -> None:
    disk, slot = board.disk, board.slot_folder(name)
    folders = [slot, *(slot / part for part in ("release", "caches", "engines"))]
    for folder in folders:
        disk.mkdir(folder)

    def write_file(entry: BundleFile, blocks: Iterator[bytes]) -> None:
        disk.write(slot / ("caches" if entry.timing_cache else "release") / entry.name, blocks)

    if read(write_file).encode() != signed.encode():
        raise CheckError("the bundle changed while it was read: copy it to the board again")
    manifest, signatures = signed.encode()
    disk.write(slot / "signatures.json", [signatures])
    disk.write(slot / MANIFEST_FILE, [manifest])
    for folder in reversed(folders):
        disk.sync(folder)


def _try_slot(board: DeviceBoard, name: SlotName, manifest: BundleManifest) -> Slot:
    release = load_release(board.release_folder(name))
    if release.name != manifest.name:
        raise CheckError(
            f"the bundle is named {manifest.name}, but its release {release.name}: bundle it again"
        )
    engines = board.slot_folder(name) / "engines"
    refused = board.backend.build(release, engines, board.log)
    board.disk.sync_tree(board.slot_folder(name))
    measurements = board.backend.measure(release, engines, board.log, refused)
    best, reason = choose_precision(board.policy, measurements)
    if isinstance(board.service, CommandService):
        start_s = board.measure_start(board.release_folder(name), best.precision, board.backend.name)
        board.log(f"started {best.precision} in {start_s:.1f} s")
        started = dataclasses.replace(best, start_s=start_s)
        measurements = [started if each is best else each for each in measurements]
    if board.backend.fallback_reason:
        reason += f"; not TensorRT: {board.backend.fallback_reason}"
    board.log(reason)
    return Slot(
        id=manifest.id,
        release=manifest.name,
        counter=manifest.counter,
        precision=best.precision,
        engine=board.backend.name,
        why=reason,
        measured=tuple(dataclasses.asdict(measurement) for measurement in measurements),
        installed_at=board.now(),
    )
