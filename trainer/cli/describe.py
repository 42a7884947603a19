"""Size and cost of the networks of a recipe, for `aerogaze train --describe`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.models.complexity import multiply_accumulates
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.streaming import StreamingNetwork
from trainer.models.student import parameter_count
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes.loader import QatRecipe, Recipe, SkdRecipe, TinyHDRecipe
from trainer.training import tinyhd


class _NetworkRow(NamedTuple):
    stage: str
    name: str
    network: nn.Module
    inputs: tuple[Tensor, ...]
    maps: int = 1


def describe_networks(recipe: Recipe) -> None:
    """Print size and cost of each network of a recipe. Only shapes are computed.

    Raises:
        InputError: The recipe fine-tunes an existing network.
    """
    if isinstance(recipe, QatRecipe):
        raise InputError(
            "--describe does not fit --qat, which fine-tunes an existing network; expected a recipe: "
            "leave --qat or --describe out"
        )
    table = Table(title=recipe.name, title_justify="left")
    for heading in ("stage", "network", "input", "parameters", "GMAC", "maps"):
        table.add_column(heading, justify="left" if heading in ("stage", "network") else "right")
    with torch.device("meta"):
        rows = _tinyhd_networks(recipe) if isinstance(recipe, TinyHDRecipe) else _skd_networks(recipe)
        for stage, name, network, inputs, maps in rows:
            gmac = multiply_accumulates(network, *inputs) / 1e9
            size = " x ".join(map(str, inputs[0].shape[2:]))
            table.add_row(stage, name, size, f"{parameter_count(network):,}", f"{gmac:.3f}", str(maps))
    Console().print(table)
    unit = "clip" if isinstance(recipe, TinyHDRecipe) else "frame with its neighbour"
    print(f"GMAC: 10^9 multiply-accumulates per {unit}; maps: number of maps that these compute")


def _skd_networks(recipe: Recipe) -> list[_NetworkRow]:
    assert isinstance(recipe, SkdRecipe), recipe
    large = (torch.empty(1, 3, *recipe.teacher_size[::-1]),) * 2
    small = (torch.empty(1, 3, recipe.student.resolution, recipe.student.resolution),) * 2
    rows: list[_NetworkRow] = []
    if recipe.teachers.steps:
        rows += [
            _NetworkRow("teachers", "spatial", SpatialTeacher(), large),
            _NetworkRow("teachers", "temporal", TemporalTeacher(), large),
        ]
    if recipe.students.steps:
        trunk = Trunk()
        rows += [
            _NetworkRow("students", "spatial", SpatialStudent(trunk), small),
            _NetworkRow("students", "temporal", TemporalStudent(trunk, recipe.student.align), small),
        ]
    network = SpatiotemporalNetwork(recipe.student.align)
    return [*rows, _NetworkRow("network", "spatiotemporal", network, small)]


def _tinyhd_networks(recipe: TinyHDRecipe) -> list[_NetworkRow]:
    size = CLIP_FRAMES, recipe.student.height, recipe.student.width
    rows = []
    for stage, network, maps in tinyhd.list_networks(recipe):
        channels = network.channels if isinstance(network, StreamingNetwork) else 3
        clip = (torch.empty(1, channels, *size),)
        rows.append(_NetworkRow(stage, type(network).__name__, network, clip, maps))
    return rows
