"""Results in Foxglove's schemas: overlay, map and regions, as protobuf messages."""

from __future__ import annotations

from typing import Any

import cv2
from foxglove_schemas_protobuf.Color_pb2 import Color
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from edge.postprocessing.annotations import FOLLOWED_COLOUR, GREY, WHITE
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result
from edge.sinks.files.map_images import fit_to_aspect, to_uint16
from edge.sinks.files.overlay_video import blend_heat_map

JPEG_QUALITY = 80
FONT_SHARE = 0.03
"""Height of a label relative to the height of the picture."""
MIN_FONT_PX = 10.0
LINE_SHARE = 0.003

OVERLAY, MAP, REGIONS = CompressedImage, RawImage, ImageAnnotations
"""Type of the messages of each topic."""


def overlay_message(result: Result, stamp_ns: int, size: tuple[int, int]) -> Message:
    """Return the frame under its heat map as JPEG; the regions are messages of their own.

    Args:
        result: The result.
        stamp_ns: Time of capture in nanoseconds.
        size: Width and height of the picture in pixels.
    """
    picture = blend_heat_map(result.frame.image, result.saliency, *size)
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return CompressedImage(
        timestamp=_timestamp(stamp_ns),
        frame_id=result.frame.frame_id,
        format="jpeg",
        data=encoded.tobytes(),
    )


def map_message(result: Result, stamp_ns: int) -> Message:
    """Return the map as a 16-bit image like those of `--maps`: 65535 is the maximum of the frame.

    Args:
        result: The result.
        stamp_ns: Time of capture in nanoseconds.
    """
    image = to_uint16(fit_to_aspect(result.saliency, result.frame.width, result.frame.height))
    height, width = image.shape
    return RawImage(
        timestamp=_timestamp(stamp_ns),
        frame_id=result.frame.frame_id,
        width=width,
        height=height,
        encoding="mono16",
        step=2 * width,
        data=image.astype("<u2").tobytes(),
    )


def regions_message(result: Result, stamp_ns: int, size: tuple[int, int]) -> Message:
    """Return the regions as boxes with labels.

    Args:
        result: The result.
        stamp_ns: Time of capture in nanoseconds.
        size: Width and height of the overlay in pixels, in which the boxes are given.
    """
    message = ImageAnnotations()
    for region in result.regions:
        colour = _colour(region, is_followed=region is result.regions[0])
        _add_box(message, region, colour, stamp_ns, size)
        _add_label(message, region, colour, stamp_ns, size)
    return message


def schema_data(message_type: type[Message]) -> bytes:
    """Return the schema of a message for MCAP: its file and those that it imports, each after its imports."""
    files: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files.setdefault(file.name, file)

    add(message_type.DESCRIPTOR.file)
    descriptors = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(descriptors.file.add())
    data: bytes = descriptors.SerializeToString()
    return data


def _add_box(message: Any, region: Region, colour: Color, stamp_ns: int, size: tuple[int, int]) -> None:
    box = message.points.add(
        timestamp=_timestamp(stamp_ns),
        type=PointsAnnotation.LINE_LOOP,
        outline_color=colour,
        thickness=max(1.0, LINE_SHARE * size[0]) * (0.5 if region.coasting else 1),
    )
    for x, y in (
        (region.left, region.top),
        (region.right, region.top),
        (region.right, region.bottom),
        (region.left, region.bottom),
    ):
        box.points.add(x=x * size[0], y=y * size[1])


def _add_label(message: Any, region: Region, colour: Color, stamp_ns: int, size: tuple[int, int]) -> None:
    label = message.texts.add(
        timestamp=_timestamp(stamp_ns),
        text=f"{region.id}  {region.score:.0%}",
        font_size=max(MIN_FONT_PX, FONT_SHARE * size[1]),
        text_color=Color(r=0, g=0, b=0, a=1),
        background_color=colour,
    )
    label.position.x, label.position.y = region.left * size[0], region.top * size[1]


def _colour(region: Region, is_followed: bool) -> Color:
    """Return the colour that the region has in the overlay video."""
    blue, green, red = FOLLOWED_COLOUR if is_followed else GREY if region.coasting else WHITE
    return Color(r=red / 255, g=green / 255, b=blue / 255, a=1)


def _timestamp(stamp_ns: int) -> Timestamp:
    return Timestamp(seconds=stamp_ns // 10**9, nanos=stamp_ns % 10**9)
