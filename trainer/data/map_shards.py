"""A model's saliency maps for many clips, on disk: a folder of shards, each a file of some clips' maps.

The folder holds `labels.json`, which says what the maps are of (`LabellingPlan`), and `shard-000000.npz` and on:
NumPy's format, uncompressed, with these arrays for M frames and K maps a frame:

- `index`: JSON as bytes: `clips`, each with `name`, `frames` (how many follow) and `faults`; `seconds`;
- `frame` (M,): the frames' indices in their clips, clip after clip;
- `peak` (M, K): each map's maximum, in the model's units;
- `end` (M, K): where each map's PNG ends in `png`; it begins where the one before ends;
- `png`: 8-bit PNG images one after the other; 255 is the map's peak.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError

Map = NDArray[np.float32]
SCHEMA = 1
PLAN_FILE = "labels.json"
PNG_PARAMETERS = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED)
"""How PNGs are made: a fifth smaller than by default on saliency maps."""
MAX_OPEN_SHARDS = 256
"""Shards kept open by a reader: one file handle each."""


@dataclass(frozen=True)
class LabellingPlan:
    """What a folder of maps is: all that two processes, or a start and the next, must agree on.

    `model` alone may differ: it is the name that was given. `sha256` is of the model's file,
    `clips_sha256` of the clips' names in order. `maps`: the names of
    a frame's maps. `stride`: every so many frames have maps. `fps`: the
    clips' frame rate, by which a model looks back. A clip's index // `clips_per_shard` is its
    shard.
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

    @property
    def shards(self) -> int:
        """Return how many shards there will be."""
        return -(-self.clips // self.clips_per_shard)


def shard_path(folder: Path, number: int) -> Path:
    """Return a shard's place."""
    return folder / f"shard-{number:06d}.npz"


def write_or_check_plan(folder: Path, plan: LabellingPlan) -> None:
    """Write the plan into the folder, or check that it is the one that was begun there.

    Raises:
        InputError: the folder holds maps by another plan, or cannot be written.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        with atomic_file(path) as pending:
            pending.write_text(json.dumps({"schema": SCHEMA, **asdict(plan)}, indent=1) + "\n")
        return
    there, here = asdict(read_plan(folder)), asdict(plan)
    differ = [
        f"{key} {there[key]} there, {here[key]} here"
        for key in there
        if key != "model" and there[key] != here[key]
    ]
    if differ:
        raise InputError(
            f"{folder} holds other maps ({'; '.join(differ)}): name another folder, or remove it"
        )


def read_plan(folder: Path) -> LabellingPlan:
    """Return the folder's plan.

    Raises:
        InputError: there is none, or not one that this aerogaze reads.
    """
    try:
        document = json.loads((folder / PLAN_FILE).read_text())
        if document.pop("schema", None) != SCHEMA:
            raise ValueError(f"not schema {SCHEMA}")
        return LabellingPlan(**{**document, "maps": tuple(document["maps"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder} is no folder of maps ({error}); expected {PLAN_FILE} and shards by aerogaze label"
        ) from None


class ShardWriter:
    """A shard in the making: maps are added frame by frame, then it is written whole."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._clips: list[dict[str, Any]] = []
        self._frames: list[int] = []
        self._peaks: list[list[float]] = []
        self._ends: list[list[int]] = []
        self._png = bytearray()

    def add(self, frame: int, maps: Sequence[Map]) -> None:
        """Add a frame's maps (h, w), non-negative, of any size."""
        peaks, ends = [], []
        for saliency in maps:
            shrinks = saliency.shape[1] > self._size[0] or saliency.shape[0] > self._size[1]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(saliency, self._size, interpolation=way), np.float32)
            peak = float(resized.max())
            image = np.rint(resized * (255 / peak)).astype(np.uint8) if peak > 0 else np.zeros_like(resized)
            self._png += cv2.imencode(".png", image, PNG_PARAMETERS)[1].tobytes()
            peaks.append(peak)
            ends.append(len(self._png))
        self._frames.append(frame)
        self._peaks.append(peaks)
        self._ends.append(ends)

    def end_clip(self, name: str, faults: Sequence[str]) -> None:
        """Give the frames added since the last clip to this one."""
        frames = len(self._frames) - sum(clip["frames"] for clip in self._clips)
        self._clips.append({"name": name, "frames": frames, "faults": list(faults)})

    def write(self, path: Path, seconds: float) -> None:
        """Write the file beside its place, then rename it."""
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
    """The maps of a folder of shards, whole or still in the making, at random.

    Opening it reads each shard's index; maps are read when they are asked for, in a fraction of a
    millisecond. It may be handed to other processes.

    Raises:
        InputError: no folder of maps, or a shard that is damaged.
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
            row = 0
            for clip in index["clips"]:
                self._rows[clip["name"]] = (path, row, row + clip["frames"])
                row += clip["frames"]
                if clip["faults"]:
                    self.faults[clip["name"]] = clip["faults"]
            self.seconds += index["seconds"]
            self.shards += 1
            self.bytes += path.stat().st_size

    @property
    def clips(self) -> dict[str, int]:
        """Return how many frames with maps each clip has that is finished."""
        return {name: stop - start for name, (_, start, stop) in self._rows.items()}

    def frames(self, clip: str) -> NDArray[np.int32]:
        """Return the indices of the clip's frames that have maps, rising; none of an unknown clip."""
        if clip not in self._rows:
            return np.empty(0, np.int32)
        path, start, stop = self._rows[clip]
        frames: NDArray[np.int32] = _map_arrays(path)["frame"][start:stop]
        return frames

    def map(self, clip: str, frame: int, name: str | None = None) -> Map:
        """Return a frame's map (height, width) in the model's units; None names the first.

        Raises:
            InputError: the clip, the frame or the name has no map.
        """
        names = self.plan.maps
        frames = self.frames(clip)
        at = int(np.searchsorted(frames, frame))
        if at == len(frames) or frames[at] != frame or (name or names[0]) not in names:
            raise InputError(
                f"no map {name or names[0]!r} of {clip}, frame {frame}; expected a frame that was labelled, "
                f"and {' or '.join(names)}: label it, or leave it out"
            )
        path, start, _ = self._rows[clip]
        arrays, column = _map_arrays(path), names.index(name or names[0])
        place = (start + at) * len(names) + column
        ends = arrays["end"].reshape(-1)
        png = arrays["png"][int(ends[place - 1]) if place else 0 : int(ends[place])]
        image = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise InputError(f"{path} is damaged at {clip}, frame {frame}: remove it and label again")
        saliency: Map = image.astype(np.float32) * np.float32(arrays["peak"].reshape(-1)[place] / 255)
        return saliency


def _read_index(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as handle, np.load(handle) as file:
            index: dict[str, Any] = json.loads(file["index"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): remove it and label again") from None
    return index


@lru_cache(MAX_OPEN_SHARDS)
def _map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return a shard's arrays as views of the mapped file: only what is looked at is read."""
    whole = np.memmap(path, np.uint8, "r")
    found: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as members:
        for info in members.infolist():
            # A local header is 30 bytes, a name and an extra field, whose lengths are its last numbers.
            lengths = whole[info.header_offset + 26 : info.header_offset + 30].view("<u2")
            file.seek(info.header_offset + 30 + int(lengths.sum()))
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            size = int(np.prod(shape)) * dtype.itemsize
            flat: NDArray[Any] = whole[file.tell() : file.tell() + size]
            found[info.filename.removesuffix(".npy")] = flat.view(dtype).reshape(shape)
    return found
