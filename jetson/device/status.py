"""Status of a board as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from edge.core.errors import CheckError
from edge.hardware.board import BoardFacts, find_jetson_module
from jetson.device.board import DeviceBoard
from jetson.device.config import BoardConfig, load_board_config
from jetson.device.service import CommandService
from jetson.device.slot_state import BoardState


def print_status(board: DeviceBoard, as_json: bool, check_health: bool = False) -> None:
    """Print which release is flown.

    Args:
        board: The board.
        as_json: Print JSON instead of text.
        check_health: Ask the service for its health, and print facts about the board.
    """
    state = board.read_state()
    health = _health(load_board_config(board.root)) if check_health and state.current else None
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


def _health(config: BoardConfig) -> str | None:
    service = config.service
    if not isinstance(service, CommandService) or not service.health_command:
        return None
    try:
        service.check_health()
    except CheckError as error:
        return str(error)
    return "good"
