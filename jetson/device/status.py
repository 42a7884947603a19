"""Status of a board as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from edge.core.errors import CheckError
from edge.hardware.board import BoardFacts, find_jetson_module
from jetson.device.board import DeviceBoard
from jetson.device.service import CommandService
from jetson.device.slot_state import BoardState
from jetson.device.time_limits import longest_start_s


def print_status(board: DeviceBoard, as_json: bool, check_health: bool = False) -> None:
    """Print which release is flown.

    Args:
        board: The board.
        as_json: Print JSON instead of text.
        check_health: Ask the service for its health, and print facts about the board.
    """
    state = board.read_state()
    health = _health(board, state) if check_health and state.current else None
    document = status_document(board, state, health)
    if as_json:
        print(json.dumps(document))
        return
    if state.current is None:
        print(f"{board.root}: no release")
    else:
        print(
            f"{document['release']} counter {document['counter']}, slot {state.current}, "
            f"{document['precision']} on {document['engine']}, {document['state']}\n"
            f"{document['why']}\n{document['path']}"
        )
    if check_health:
        print(f"board: {', '.join(_describe_board(board.facts)) or 'not a known Jetson'}")
        if document["health"]:
            print(f"health: {document['health']}")
        if document["limits"]:
            print(_describe_limits(document["limits"]))


def status_document(board: DeviceBoard, state: BoardState, health: str | None) -> dict[str, Any]:
    """Return what `--json` prints of a board."""
    slot = state.current_slot
    return {
        "schema": 1,
        "aerogaze": version("aerogaze"),
        "root": str(board.root),
        "trusts": list(board.load_trust().keys) if board.has_trust else [],
        "state": "none" if slot is None else "trial" if state.trial else "good",
        "health": health,
        "limits": _limits_document(board, state),
        "slot": state.current,
        "path": str(board.release_folder(state.current)) if state.current else None,
        **{
            key: getattr(slot, key, None)
            for key in ("id", "release", "counter", "precision", "engine", "why")
        },
        "measured": list(slot.measured) if slot else [],
        "previous": state.slots[state.previous].counter if state.previous else None,
        "highest_counter": state.counter,
        "board": asdict(board.facts),
        "module": _module_document(board.facts),
    }


def _limits_document(board: DeviceBoard, state: BoardState) -> dict[str, float | None] | None:
    """Return the measured start and the time limits of the service, in seconds; None without a service."""
    if not isinstance(board.service, CommandService):
        return None
    start_s = longest_start_s(state.slots.values())
    limits = board.service.limits(start_s)
    return {"start_s": start_s, **asdict(limits), "revert_s": limits.revert_s}


def _describe_limits(limits: dict[str, float | None]) -> str:
    start_s = limits["start_s"]
    measured = "start not measured" if start_s is None else f"start {start_s:.1f} s"
    return (
        f"limits: {measured}; restart {limits['command_s']:g} s, watchdog {limits['watchdog_s']:g} s, "
        f"watch {limits['watch_s']:g} s; a bad release is gone within {limits['revert_s']:g} s"
    )


def _module_document(facts: BoardFacts) -> dict[str, Any] | None:
    """Return the maximum of DLA cores and the memory sizes (GB) that the module is sold with."""
    module = find_jetson_module(facts.model)
    return {"dla_cores": module.dla_cores, "memory_gb": list(module.memory_gb)} if module else None


def _describe_board(facts: BoardFacts) -> list[str]:
    labelled = (
        ("", facts.model),
        ("compute capability ", facts.compute_capability),
        ("JetPack ", facts.jetpack),
        ("L4T ", facts.l4t),
        ("TensorRT ", facts.tensorrt),
        ("power mode ", facts.power_mode_name),
    )
    parts = [f"{label}{value}" for label, value in labelled if value]
    if module := find_jetson_module(facts.model):
        parts.append(f"at most {module.dla_cores} DLA cores" if module.dla_cores else "no DLA")
        parts.append(f"{' or '.join(map(str, module.memory_gb))} GB of memory")
    return parts


def _health(board: DeviceBoard, state: BoardState) -> str | None:
    service = board.service
    if not isinstance(service, CommandService) or not service.health_command:
        return None
    try:
        service.limited(longest_start_s(state.slots.values())).check_health()
    except CheckError as error:
        return str(error)
    return "good"
