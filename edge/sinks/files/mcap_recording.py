"""MCAP sink: overlay, map, regions and metrics of a run on one time line, for Foxglove."""

from __future__ import annotations

import contextlib
import json
import time
from io import FileIO
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from edge.core.frames import Source
from edge.core.run_status import Status
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.overlay_video import DISK_CHECK_INTERVAL, RESERVED_BYTES, overlay_size
from edge.sinks.files.recovery import LockedFile

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from mcap.writer import Writer

SUFFIX = ".mcap"
CHUNK_BYTES = 1 << 19
"""Size from which a chunk is written: about a second of video, which is what a killed run loses."""
NAMESPACE = "/saliency"
"""Namespace of the topics; with several cameras, the name of the camera follows."""
OVERLAY, MAP, REGIONS, METRICS = "overlay", "map", "regions", "metrics"
METRICS_SCHEMA = {
    "title": "aerogaze.Metrics",
    "type": "object",
    "properties": {
        "latency_ms": {"type": "number", "description": "Time from the frame to its map"},
        "fps": {"type": "number", "description": "Maps per second"},
        "dropped": {"type": "integer", "description": "Frames that were captured and not run"},
        "held": {"type": "integer", "description": "Maps that repeat the last valid one"},
        "regions": {"type": "integer", "description": "Number of regions"},
        "score": {"type": "number", "description": "Score of the region to follow, 0 without one"},
        "share": {"type": "number", "description": "Share of gaze of the region to follow, 0 without one"},
    },
}


class McapSink:
    """Writes an MCAP file in Foxglove's schemas; docs/how-to/bags.md describes its topics.

    A message has the time of its frame: that of the robot's clock if the source knows it, wall time in a live
    run, else media time.

    Args:
        path: Output file, which ends in .mcap.
        source: Source of the frames, for their size.
        status: Status of the run, for the metrics.
        transform: Applied to each result first, for example to find regions.
        is_live: The run is live.

    Raises:
        InputError: The packages are missing, the suffix is another one, or the disk is almost full (also from
            `write`).
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        status: Status,
        transform: ResultTransform = identity,
        is_live: bool = False,
    ) -> None:
        if path.suffix.lower() != SUFFIX:
            raise InputError(f"cannot write {path}: expected a name ending in {SUFFIX}")
        try:
            from edge.sinks.files import foxglove_messages
        except ImportError as error:
            raise InputError(
                f"--mcap needs the packages mcap and foxglove-schemas-protobuf ({error}): "
                "pip install 'aerogaze[bags]'"
            ) from None
        self._messages, self._status, self._transform = foxglove_messages, status, transform
        self._size = overlay_size(source.width, source.height)
        self._wall_ns = time.time_ns() - time.monotonic_ns() if is_live else 0
        self._topics = f"{NAMESPACE}/{status.camera}" if status.camera else NAMESPACE
        self._frames = 0
        self._pending = LockedFile(path)
        self._file = _WholeWrites(self._pending.path)
        try:
            self._check_disk()
            self._writer = self._open_writer()
        except BaseException:
            self.discard()
            raise

    def _open_writer(self) -> Writer:
        """Write the header, schemas and channels."""
        from mcap.well_known import MessageEncoding, SchemaEncoding
        from mcap.writer import Writer

        writer = Writer(self._file, chunk_size=CHUNK_BYTES)  # type: ignore[arg-type]
        types: dict[str, type[Message]] = {
            OVERLAY: self._messages.OVERLAY,
            MAP: self._messages.MAP,
            REGIONS: self._messages.REGIONS,
        }
        self._channels = {}
        with translate_write_errors(self._pending.target):
            writer.start(profile="", library="aerogaze")
            for name, type_ in types.items():
                data = self._messages.schema_data(type_)
                schema = writer.register_schema(type_.DESCRIPTOR.full_name, SchemaEncoding.Protobuf, data)
                self._channels[name] = writer.register_channel(
                    f"{self._topics}/{name}", MessageEncoding.Protobuf, schema
                )
            data = json.dumps(METRICS_SCHEMA).encode()
            schema = writer.register_schema(str(METRICS_SCHEMA["title"]), SchemaEncoding.JSONSchema, data)
            self._channels[METRICS] = writer.register_channel(
                f"{self._topics}/{METRICS}", MessageEncoding.JSON, schema
            )
        return writer

    def write(self, result: Result) -> None:
        """Write the messages of one frame; a chunk that is full goes to the file at once."""
        if self._frames % DISK_CHECK_INTERVAL == 0:
            self._check_disk()
        frame = result.frame
        stamp_ns = self._wall_ns + round(frame.capture_s * 1e9) if frame.stamp_ns is None else frame.stamp_ns
        raw_map = self._messages.map_message(result, stamp_ns)
        result = self._transform(result)
        messages = {
            OVERLAY: self._messages.overlay_message(result, stamp_ns, self._size),
            MAP: raw_map,
            REGIONS: self._messages.regions_message(result, stamp_ns, self._size),
        }
        for name, message in messages.items():
            self._add(name, stamp_ns, message.SerializeToString())
        self._add(METRICS, stamp_ns, json.dumps(self._metrics(result)).encode())
        self._frames += 1

    def _add(self, name: str, stamp_ns: int, data: bytes) -> None:
        with translate_write_errors(self._pending.target):
            self._writer.add_message(self._channels[name], stamp_ns, data, stamp_ns, self._frames)

    def _metrics(self, result: Result) -> dict[str, Any]:
        status, followed = self._status.snapshot(), next(iter(result.regions), None)
        return {
            "latency_ms": round(result.latency_ms, 3),
            "fps": round(status.fps, 2),
            "dropped": status.dropped,
            "held": status.held,
            "regions": len(result.regions),
            "score": round(followed.score, 4) if followed else 0.0,
            "share": round(followed.share, 4) if followed else 0.0,
        }

    def _check_disk(self) -> None:
        if disk_usage(self._pending.path.parent).free < RESERVED_BYTES:
            raise InputError(
                f"the disk of {self._pending.target} is almost full: the recording ends after {self._frames} "
                "frames; free some space, or choose another path"
            )

    def finish(self) -> None:
        """Write the last chunk and the index, and close the file."""
        with translate_write_errors(self._pending.target):
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.close()

    def commit(self) -> None:
        """Move the file to its final path."""
        self._pending.commit()

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._pending.discard()


class _WholeWrites:
    """Unbuffered file for `mcap`: what it writes survives a kill of the process."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "wb")

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:  # an unbuffered write to an almost full disk can take a part
            rest = rest[self._file.write(rest) or 0 :]
        return len(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        self._file.close()
