"""Test of the names that the commands give to the layers of a release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome
from tests.support.command_output import parse_output

Command = Callable[..., Outcome]


def test_commands_name_the_layers_of_a_release_the_same_way(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    footage = ("--frames", folder)
    sensitivity = parse_output(command("sensitivity", "skd-32", *footage, "--method", "minmax", "--json"))
    comparison = parse_output(
        command("compare", "skd-32:fp32", "skd-32:int8", *footage, "--max-frames", "2", "--layers", "--json")
    )
    latency = tmp_path / "latency.json"
    words = ("--precision", "fp32,int8", "--layers", "--energy", "0", "--no-history", "--json", latency)
    outcome = command("profile", "skd-32", *words)
    assert outcome.code == 0, outcome.err
    profiles = json.loads(latency.read_text())["layers"]

    quantized = {layer["layer"] for layer in sensitivity["layers"]}
    compared = {name for name in comparison["layers"] if "conv" in name}
    assert quantized == {f"node_conv2d_{number}" for number in range(1, 12)}
    assert compared == quantized | {"node_conv2d", "node_convolution", "node_convolution_1"}
    for profile in profiles.values():
        assert {layer["name"] for layer in profile["layers"] if "Conv" in layer["op"]} == compared
