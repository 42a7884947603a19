"""Record of a student's quantization to int8.

Calibration writes the record to the release's folder. Quantization-aware training simulates it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.guarded_files import parse_json
from edge.release.release import FORMS, Form

QUANTIZATION_FILE = "quantisation.json"
"""File in a release's folder with the `QuantizationRecord` of each form."""
SCHEMA = 1
TRAINED_KEY = "quantised"
"""Key in the record of a student's training: the form, the engine and the ranges that it was trained with."""
TensorRanges = dict[str, tuple[float, float]]
"""Lowest and highest value of each tensor, by name."""


@dataclass(frozen=True)
class QuantizationParams:
    """Quantization of a tensor to 8-bit integers: clip(round(v / scale) + zero_point, least, most)."""

    scale: float
    zero_point: int
    least: int
    most: int


@dataclass(frozen=True)
class QdqPlacement:
    """Tensors that Q/DQ pairs quantize in a graph for one engine, by name.

    Attributes:
        activations: Activations, quantized per tensor.
        weights: Weights with the axis of their channels: symmetric, -127 to 127, one scale per channel.
        ranges: Ranges that the activations' scales were computed from. They include other tensors if some
            share a scale.
    """

    activations: Mapping[str, QuantizationParams]
    weights: Mapping[str, int]
    ranges: TensorRanges


@dataclass(frozen=True)
class QuantizationRecord:
    """Quantization of one form.

    Attributes:
        inputs: Names of the graph's inputs, in its order.
        outputs: Names of the graph's outputs, in its order.
        places: The quantized tensors by engine.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    places: Mapping[str, QdqPlacement]


def save_quantization(records: Mapping[Form, QuantizationRecord], path: Path) -> None:
    """Write the records of a release's forms as JSON."""
    document = {"schema": SCHEMA, "forms": {form: asdict(record) for form, record in records.items()}}
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")


def load_quantization(path: Path) -> dict[Form, QuantizationRecord]:
    """Read the records that `save_quantization` wrote.

    Raises:
        InputError: The file is missing or malformed.
    """
    try:
        document = parse_json(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, expected {SCHEMA}")
        return {form: _parse_record(document["forms"][form]) for form in FORMS if form in document["forms"]}
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} has no {path.name}, the record of its quantization to int8: "
            "make the release again with aerogaze export or calibrate"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the release again") from None


def trained_ranges(trained: Mapping[str, Any], form: Form) -> TensorRanges:
    """Return the ranges that a student was trained with in a form, from the record of its training."""
    record = trained.get(TRAINED_KEY)
    if not isinstance(record, Mapping) or record.get("form") != form:
        return {}
    return _parse_ranges(record["ranges"])


def _parse_record(document: Mapping[str, Any]) -> QuantizationRecord:
    places = {
        str(engine): QdqPlacement(
            {name: QuantizationParams(**params) for name, params in placement["activations"].items()},
            {name: int(axis) for name, axis in placement["weights"].items()},
            _parse_ranges(placement["ranges"]),
        )
        for engine, placement in document["places"].items()
    }
    return QuantizationRecord(tuple(document["inputs"]), tuple(document["outputs"]), places)


def _parse_ranges(document: Mapping[str, Any]) -> TensorRanges:
    return {str(name): (float(low), float(high)) for name, (low, high) in document.items()}
