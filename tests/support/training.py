"""Short trainings for tests: recipes with few steps, a simulated kill, and two processes by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from trainer.recipes.loader import SkdRecipe, load_recipe

SHORT_SKD = {
    "world.width": "96", "world.height": "64", "workers": "0",
    "teachers.steps": "1", "teachers.batch": "2", "teachers.imagenet": "false",
    "students.steps": "2", "students.batch": "4", "network.steps": "3", "network.batch": "4",
}  # fmt: skip
"""Changes to a recipe of an SKD student that leave a few steps of each stage."""


class KilledError(Exception):
    """Raised between two steps to simulate a killed process."""


def short_skd_recipe(name: str = "demo", **changes: str) -> SkdRecipe:
    """Return a recipe with a few steps; `network__steps="5"` changes the key `network.steps`."""
    values = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = load_recipe(name, {**SHORT_SKD, **values})
    assert isinstance(recipe, SkdRecipe)
    return recipe


def set_options(changes: Mapping[str, object]) -> list[str]:
    """Return the options `--set KEY=VALUE` of `aerogaze train`."""
    return [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]


def assert_equal_weights(network: nn.Module, expected: nn.Module) -> None:
    """Check that a network has the weights and statistics of another one, bit for bit."""
    values, expected_values = network.state_dict(), expected.state_dict()  # each call lists all modules
    assert values.keys() == expected_values.keys()
    for name, value in expected_values.items():
        assert torch.equal(values[name], value), name


def run_torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script or command in two processes that train together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": root},
    )
