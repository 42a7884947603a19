"""Saliency maps of many clips on disk: a folder of shards, each a file with the maps of some clips.

The folder holds `labels.json`, which says what the maps are of (`LabellingPlan`), and `shard-000000.npz` and
so on. A shard is in NumPy's format, uncompressed. It has these arrays for M frames with K maps per frame:

- `index`: JSON as bytes with `clips` and `seconds`; each clip has `name`, `frames` (how many) and `faults`;
- `frame` (M,): indices of the frames in their clips, clip after clip;
- `peak` (M, K): maximum of each map, in the model's units;
- `end` (M, K): where the PNG of each map ends in `png`; it begins where the one before ends;
- `png`: 8-bit PNG images one after the other, where 255 is the peak of the map.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.sources.image_folder import decode_image
from trainer.data.mapped_arrays import map_arrays

Map = NDArray[np.float32]
SCHEMA = 1
PLAN_FILE = "labels.json"
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED)
"""PNG settings that make saliency maps a fifth smaller than the default does."""


@dataclass(frozen=True)
class LabellingPlan:
    """Description of a folder of maps: all settings that processes, and later runs, must agree on.

    Attributes:
        model: Name of the model as given; the only field that may differ between runs.
        sha256: Digest of the model's file.
        precision: Precision of the engine, or None.
        dataset: Kind of the data set.
        split: Split of the data set, or None.
        clips: Number of clips.
        clips_sha256: Digest of the names of the clips in their order.
        maps: Names of the maps of a frame.
        width: Width of the maps in pixels.
        height: Height of the maps in pixels.
        stride: Every how many frames a frame has maps.
        max_frames: Most frames of a clip, or None.
        clips_per_shard: Clips in a shard: clip i is in shard i // `clips_per_shard`.
        fps: Frame rate of the clips, for models whose lag is in seconds.
        pixel_range: Range of deep pixels, `auto` or LOW,HIGH.
    """

    model: str
    sha256: str
    precision: str | None
    dataset: str
    split: str | None
    clips: int
    clips_sha256: str
    maps: tuple[str, ...]
    width: int
    height: int
    stride: int
    max_frames: int | None
    clips_per_shard: int
    fps: float
    pixel_range: str = "auto"

    @property
    def shards(self) -> int:
        """Return the number of shards of the finished folder."""
        return -(-self.clips // self.clips_per_shard)


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{number:06d}.npz"


def write_or_check_plan(folder: Path, plan: LabellingPlan) -> None:
    """Write the plan into the folder, or check that the folder holds maps of the same plan.

    Raises:
        InputError: The folder holds maps of another plan, or cannot be written.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        with atomic_file(path) as pending:
            pending.write_text(json.dumps({"schema": SCHEMA, **asdict(plan)}, indent=1) + "\n")
        return
    stored, requested = asdict(read_plan(folder)), asdict(plan)
    differences = [
        f"{key} {stored[key]} there, {requested[key]} here"
        for key in stored
        if key != "model" and stored[key] != requested[key]
    ]
    if differences:
        raise InputError(
            f"{folder} holds other maps ({'; '.join(differences)}): name another folder, or remove it"
        )


def read_plan(folder: Path) -> LabellingPlan:
    """Read the plan of a folder of maps.

    Raises:
        InputError: There is no plan, or this version cannot read it.
    """
    try:
        document = json.loads((folder / PLAN_FILE).read_text())
        if document.pop("schema", None) != SCHEMA:
            raise ValueError(f"not schema {SCHEMA}")
        return LabellingPlan(**{**document, "maps": tuple(document["maps"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder} is not a folder of maps ({error}); expected {PLAN_FILE} and shards by aerogaze label"
        ) from None


class ShardWriter:
    """Writer of a shard: collects maps frame by frame, then writes the file at once."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._clips: list[dict[str, Any]] = []
        self._frames: list[int] = []
        self._peaks: list[list[float]] = []
        self._ends: list[list[int]] = []
        self._png = bytearray()

    def add(self, frame: int, maps: Sequence[Map]) -> None:
        """Add the maps (h, w) of a frame, non-negative and of any size."""
        peaks, ends = [], []
        for saliency in maps:
            shrinks = saliency.shape[1] > self._size[0] or saliency.shape[0] > self._size[1]
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(saliency, self._size, interpolation=interpolation), np.float32)
            peak = float(resized.max())
            image = np.rint(resized * (255 / peak)).astype(np.uint8) if peak > 0 else np.zeros_like(resized)
            self._png += cv2.imencode(".png", image, PNG_PARAMETERS)[1].tobytes()
            peaks.append(peak)
            ends.append(len(self._png))
        self._frames.append(frame)
        self._peaks.append(peaks)
        self._ends.append(ends)

    def end_clip(self, name: str, faults: Sequence[str]) -> None:
        """Assign the frames added since the last clip to this clip."""
        frames = len(self._frames) - sum(clip["frames"] for clip in self._clips)
        self._clips.append({"name": name, "frames": frames, "faults": list(faults)})

    def write(self, path: Path, seconds: float) -> None:
        """Write the shard to `path` atomically; `seconds` is how long its maps took to compute."""
        index = json.dumps({"schema": SCHEMA, "clips": self._clips, "seconds": round(seconds, 3)})
        with atomic_file(path) as pending:
            np.savez(
                pending,
                index=np.frombuffer(index.encode(), np.uint8),
                frame=np.array(self._frames, np.int32),
                peak=np.array(self._peaks, np.float32),
                end=np.array(self._ends, np.int64),
                png=np.frombuffer(bytes(self._png), np.uint8),
            )


class ShardedMaps:
    """Random access to the maps of a folder of shards, complete or still being written.

    The index of each shard is read on opening. A map is read on access, in less than a millisecond. The
    object can be pickled, so that other processes can use it.

    Args:
        folder: Folder of shards.

    Raises:
        InputError: No folder of maps, or a damaged shard.

    Attributes:
        plan: What the folder contains.
        faults: Faults of each clip that has any.
        seconds: How long all maps took to compute.
        shards: Number of shards.
        bytes: Size of all shards.
    """

    def __init__(self, folder: Path) -> None:
        self.plan = read_plan(folder)
        self.faults: dict[str, list[str]] = {}
        self.seconds = 0.0
        self.shards = 0
        self.bytes = 0
        self._rows: dict[str, tuple[Path, int, int]] = {}
        for path in sorted(folder.glob("shard-*.npz")):
            index = _read_index(path)
            start = 0
            for clip in index["clips"]:
                self._rows[clip["name"]] = (path, start, start + clip["frames"])
                start += clip["frames"]
                if clip["faults"]:
                    self.faults[clip["name"]] = clip["faults"]
            self.seconds += index["seconds"]
            self.shards += 1
            self.bytes += path.stat().st_size

    @property
    def clips(self) -> dict[str, int]:
        """Return how many frames have maps, for each finished clip."""
        return {name: stop - start for name, (_, start, stop) in self._rows.items()}

    def frames(self, clip: str) -> NDArray[np.int32]:
        """Return the ascending indices of a clip's frames that have maps; empty for an unknown clip."""
        if clip not in self._rows:
            return np.empty(0, np.int32)
        path, start, stop = self._rows[clip]
        frames: NDArray[np.int32] = map_arrays(path)["frame"][start:stop]
        return frames

    def map(self, clip: str, frame: int, name: str | None = None) -> Map:
        """Return a map (height, width) of a frame, in the model's units.

        Args:
            clip: Name of the clip.
            frame: Index of the frame in the clip.
            name: Name of the map; None is the first.

        Raises:
            InputError: There is no such map, or the shard is damaged.
        """
        names = self.plan.maps
        frames = self.frames(clip)
        row = int(np.searchsorted(frames, frame))
        if row == len(frames) or frames[row] != frame or (name or names[0]) not in names:
            raise InputError(
                f"no map {name or names[0]!r} of {clip}, frame {frame}; expected a frame that was labelled, "
                f"and {' or '.join(names)}: label it, or leave it out"
            )
        path, start, _ = self._rows[clip]
        arrays, column = map_arrays(path), names.index(name or names[0])
        position = (start + row) * len(names) + column
        ends = arrays["end"].reshape(-1)
        png = arrays["png"][int(ends[position - 1]) if position else 0 : int(ends[position])]
        decoded = decode_image(png, cv2.IMREAD_GRAYSCALE)
        if decoded is None:
            raise InputError(f"{path} is damaged at {clip}, frame {frame}: remove it and label again")
        saliency: Map = decoded[0].astype(np.float32) * np.float32(arrays["peak"].reshape(-1)[position] / 255)
        return saliency


def _read_index(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as handle, np.load(handle) as file:
            index: dict[str, Any] = json.loads(file["index"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): remove it and label again") from None
    return index
