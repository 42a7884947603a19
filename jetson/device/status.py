"""What a board says of itself, as text and as JSON."""

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


def tell(this: DeviceBoard, as_json: bool, health: bool = False) -> None:
    """Print what is flown, and with `health` what board this is and how it feels."""
    state = this.read_state()
    document = describe(
        this, state, _health(load_board_config(this.root)) if health and state.current else None
    )
    if as_json:
        print(json.dumps(document))
        return
    if state.current is None:
        print(f"{this.root}: no release")
    else:
        print(
            f"{document['release']} counter {document['counter']}, slot {state.current}, "
            f"{document['precision']} on {document['engine']}, {document['state']}\n"
            f"{document['why']}\n{document['path']}"
        )
    if health:
        print(f"board: {', '.join(_board(this.facts)) or 'no Jetson that is known'}")
        if document["health"]:
            print(f"health: {document['health']}")


def describe(this: DeviceBoard, state: BoardState, health: str | None) -> dict[str, Any]:
    """Return what `--json` prints of a board."""
    slot = state.current_slot
    return {
        "schema": 1,
        "aerogaze": version("aerogaze"),
        "root": str(this.root),
        "trusts": list(this.load_trust().keys) if this.has_trust else [],
        "state": "none" if slot is None else "trial" if state.trial else "good",
        "health": health,
        "slot": state.current,
        "path": str(this.release_folder(state.current)) if state.current else None,
        **{
            key: getattr(slot, key, None)
            for key in ("id", "release", "counter", "precision", "engine", "why")
        },
        "measured": list(slot.measured) if slot else [],
        "previous": state.slots[state.previous].counter if state.previous else None,
        "highest_counter": state.counter,
        "board": asdict(this.facts),
        "module": _module(this.facts),
    }


def _module(facts: BoardFacts) -> dict[str, Any] | None:
    """Return what the table of modules says: DLA cores at most, and the memories (GB) that it comes with."""
    module = find_jetson_module(facts.model)
    return {"dla_cores": module.dla_cores, "memory_gb": list(module.memory_gb)} if module else None


def _board(facts: BoardFacts) -> list[str]:
    known = (
        ("", facts.model),
        ("compute capability ", facts.compute_capability),
        ("JetPack ", facts.jetpack),
        ("L4T ", facts.l4t),
        ("TensorRT ", facts.tensorrt),
        ("power mode ", facts.power_mode_name),
    )
    told = [f"{say}{what}" for say, what in known if what]
    if module := find_jetson_module(facts.model):
        told.append(f"at most {module.dla_cores} DLA cores" if module.dla_cores else "no DLA")
        told.append(f"{' or '.join(map(str, module.memory_gb))} GB of memory")
    return told


def _health(config: BoardConfig) -> str | None:
    service = config.service
    if not isinstance(service, CommandService) or not service.health_command:
        return None
    try:
        service.check()
    except CheckError as error:
        return str(error)
    return "good"
