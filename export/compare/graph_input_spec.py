"""Input specification of a graph file that has no release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from calibration.inputs.image_format import COLOURS, LAYOUTS
from calibration.inputs.onnx_import import (
    DEFAULT_OFFSET,
    DEFAULT_SCALE,
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
    """Conversion of a frame to a graph's only input, and the name of the output with the map."""

    image: ImageInput
    output: str

    def __str__(self) -> str:
        image = self.image
        colour = "grey" if image.channels == 1 else image.colour
        scale, offset = (",".join(f"{v:.4g}" for v in values) for values in (image.scale, image.offset))
        return f"{image.width}x{image.height} {image.layout} {colour}, v * {scale} + {offset}"

    def document(self) -> dict[str, Any]:
        """Return the specification as plain values for JSON."""
        return {**asdict(self.image), "output": self.output}


def read_calibrated_spec(path: Path) -> GraphInputSpec | None:
    """Return the specification of a graph that `aerogaze calibrate` wrote; None for any other file.

    Raises:
        InputError: If the `calibration.json` in its folder cannot be read.
    """
    file = path.parent / CALIBRATION_FILE
    if not file.is_file():
        return None
    graph = read_calibrated_graph(path.parent)
    if graph.hashes.get(path.name) != sha256(path):
        return None
    try:
        return GraphInputSpec(_parse_image(graph.image), graph.output)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} does not describe the graph's input ({error!r}): calibrate again") from None


def spec_from_request(
    path: Path, model: onnx.ModelProto, request: InputRequest, other: GraphInputSpec | None
) -> GraphInputSpec:
    """Return the specification of a graph file from command-line options.

    Args:
        path: The graph file.
        model: Its graph. Open dimensions of its input are set.
        request: The options.
        other: Specification of the other graph; it replaces options that are not given.

    Raises:
        InputError: If the graph does not have one image input, or options do not fit it.
    """
    inputs = data_inputs(model)
    if len(inputs) != 1:
        raise InputError(
            f"{path} has inputs {', '.join(value.name for value in inputs) or 'none'}; expected one image; "
            "compare it with its release, which describes them"
        )
    layout, size, colour, scale, offset = request.parse_image()
    output = request.output
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


def _parse_image(document: Mapping[str, Any]) -> ImageInput:
    image = ImageInput(
        int(document["width"]),
        int(document["height"]),
        int(document["channels"]),
        LAYOUTS[LAYOUTS.index(document["layout"])],
        COLOURS[COLOURS.index(document["colour"])],
        tuple(map(float, document["scale"])),
        tuple(map(float, document["offset"])),
    )
    if image.channels not in (1, 3) or min(image.width, image.height) < 1:
        raise ValueError(f"{image.width}x{image.height}x{image.channels}")
    return image
