"""Where a student's graphs are rounded to eight bits, and how: calibration writes it beside a release's
graphs, and quantisation-aware distillation trains through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.release.manifest import FORMS, Form

QUANTIZATION_FILE = "quantisation.json"
"""In a release's folder: `QuantizationRecord` of each form."""
SCHEMA = 1
TRAINED_KEY = "quantised"
"""Key in what a student says of its training: the form, the engine and the ranges it was trained through."""
TensorRanges = dict[str, tuple[float, float]]
"""Lowest and highest value of each tensor, by name."""


@dataclass(frozen=True)
class QuantizationParams:
    """Of a tensor's values: clip(round(v / scale) + zero_point, least, most), an 8-bit integer."""

    scale: float
    zero_point: int
    least: int
    most: int


@dataclass(frozen=True)
class QdqPlacement:
    """What Q/DQ rounds in a graph, by the names of its tensors, for an engine.

    `activations`: per tensor. `weights`: symmetric, -127 to 127, one scale a channel of the axis given.
    `ranges`: those that the activations' scales were made from; of more tensors where some share a scale.
    """

    activations: Mapping[str, QuantizationParams]
    weights: Mapping[str, int]
    ranges: TensorRanges


@dataclass(frozen=True)
class QuantizationRecord:
    """A form's places by engine; the names of the graph's inputs and outputs, in its order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    places: Mapping[str, QdqPlacement]


def save_quantization(found: Mapping[Form, QuantizationRecord], path: Path) -> None:
    """Write what was found of each form as JSON."""
    document = {"schema": SCHEMA, "forms": {form: asdict(one) for form, one in found.items()}}
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")


def load_quantization(path: Path) -> dict[Form, QuantizationRecord]:
    """Read what `save_quantization` wrote.

    Raises:
        InputError: no such file, or none of ours.
    """
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, expected {SCHEMA}")
        return {form: _parsed(document["forms"][form]) for form in FORMS if form in document["forms"]}
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}, which says where its student is rounded to int8: "
            "make the release again with aerogaze export or calibrate"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the release again") from None


def trained_ranges(trained: Mapping[str, Any], form: Form) -> TensorRanges:
    """Return the ranges that a student was trained through in a form, of what it says of its training."""
    told = trained.get(TRAINED_KEY)
    if not isinstance(told, Mapping) or told.get("form") != form:
        return {}
    return _ranges(told["ranges"])


def _parsed(found: Mapping[str, Any]) -> QuantizationRecord:
    places = {
        str(engine): QdqPlacement(
            {name: QuantizationParams(**rounding) for name, rounding in one["activations"].items()},
            {name: int(axis) for name, axis in one["weights"].items()},
            _ranges(one["ranges"]),
        )
        for engine, one in found["places"].items()
    }
    return QuantizationRecord(tuple(found["inputs"]), tuple(found["outputs"]), places)


def _ranges(found: Mapping[str, Any]) -> TensorRanges:
    return {str(name): (float(low), float(high)) for name, (low, high) in found.items()}
