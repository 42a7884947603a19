"""How a graph that is no release's is fed: as `calibrate` wrote beside it, as asked for, or as the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from calibration.inputs.onnx_import import (
    COLOURS,
    DEFAULT_OFFSET,
    DEFAULT_SCALE,
    LAYOUTS,
    ImageInput,
    data_inputs,
    resolve_image_input,
    select_output,
)
from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from export.compare.input_request import InputRequest
from export.graphs.calibrated_folder import CALIBRATION_FILE, read_calibrated_graph


@dataclass(frozen=True)
class GraphInputSpec:
    """What a graph's one input is given of a frame, and which output is judged."""

    image: ImageInput
    output: str

    def __str__(self) -> str:
        image = self.image
        colour = "grey" if image.channels == 1 else image.colour
        scale, offset = (",".join(f"{v:.4g}" for v in values) for values in (image.scale, image.offset))
        return f"{image.width}x{image.height} {image.layout} {colour}, v * {scale} + {offset}"

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self.image), "output": self.output}


def read_calibrated_spec(path: Path) -> GraphInputSpec | None:
    """Return how a graph is fed that `aerogaze calibrate` wrote; None for any other file.

    Raises:
        InputError: the `calibration.json` beside it cannot be read.
    """
    if not (path.parent / CALIBRATION_FILE).is_file():
        return None
    found = read_calibrated_graph(path.parent)
    if found.hashes.get(path.name) != sha256(path):
        return None
    try:
        return GraphInputSpec(_image(found.image), found.output)
    except (KeyError, TypeError, ValueError) as error:
        place = path.parent / CALIBRATION_FILE
        raise InputError(f"{place} does not say how the graph is fed ({error!r}): calibrate again") from None


def spec_from_request(
    path: Path, model: onnx.ModelProto, asked: InputRequest, other: GraphInputSpec | None
) -> GraphInputSpec:
    """Return how a lone graph is fed: as it was asked for, and what was not, as the other graph is.

    Raises:
        InputError: it is not a graph of one image, or options do not fit it.
    """
    inputs = data_inputs(model)
    if len(inputs) != 1:
        raise InputError(
            f"{path} has inputs {', '.join(value.name for value in inputs) or 'none'}; expected one image; "
            "compare it beside its release, which says what they are"
        )
    layout, size, colour, scale, offset = asked.image()
    output = asked.output
    if other:
        sides = inputs[0].type.tensor_type.shape.dim[1:]
        if any(side.dim_value <= 0 for side in sides):
            size = size or (other.image.width, other.image.height)
        if not (scale or offset):
            scale, offset = other.image.scale, other.image.offset
        colour = colour or other.image.colour
        names = [value.name for value in model.graph.output]
        output = output or (other.output if other.output in names else None)
    image = resolve_image_input(
        path, model, layout, size, colour or "rgb", scale or DEFAULT_SCALE, offset or DEFAULT_OFFSET
    )
    return GraphInputSpec(image, select_output(path, model, output))


def _image(told: Mapping[str, Any]) -> ImageInput:
    image = ImageInput(
        int(told["width"]),
        int(told["height"]),
        int(told["channels"]),
        LAYOUTS[LAYOUTS.index(told["layout"])],
        COLOURS[COLOURS.index(told["colour"])],
        tuple(map(float, told["scale"])),
        tuple(map(float, told["offset"])),
    )
    if image.channels not in (1, 3) or min(image.width, image.height) < 1:
        raise ValueError(f"{image.width}x{image.height}x{image.channels}")
    return image
