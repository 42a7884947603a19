"""Pool of rendered scenes on disk: frames and targets of many simulated scenes, as memory-mapped shards.

A pool is a folder with `pool.json`, its settings (`PoolSettings`), and `shard-000000.npz` and so on, each
with `SCENES_PER_SHARD` scenes. Shards are in NumPy's format, uncompressed, with the CRC-32 of each array. A
scene has one or several *shots*: a few frames close to each other in time. Frames are counted in *ticks* of
1/60 s from the start of the scene. Densities are not stored, but the targets that they are computed from.
Scenes without targets are in shards of their own, `empty-000000.npz` and so on, so that a pool can get them
later. A shard has:

- `index`: JSON as bytes with `format` and `shots` (`ShotIndex`), shot after shot as in the other arrays;
- `frames` (N, H, W, 3): uint8, BGR;
- `targets`: JSON as bytes, one list of targets after the other, for each of a shot's target ticks;
- `target_ends` (M,): where each list ends in `targets`; it begins where the one before ends.
"""

from __future__ import annotations

import ast
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import edge.simulation
from edge.core.errors import InputError
from edge.simulation.world import VisibleTarget
from trainer.data.mapped_arrays import cached_per_file, map_arrays

FORMAT = 1
SETTINGS_FILE = "pool.json"
SCENES_PER_SHARD = 9
TICKS_PER_S = 60
"""Ticks per second: the frames of 10, 20, 30 and 60 per second lie on ticks."""
FIRST_TRAINING_SCENE = SCENES_PER_SEED = 1_000_000_000
"""Scenes below `FIRST_TRAINING_SCENE` are for evaluation. Each seed has `SCENES_PER_SEED` scenes."""
SYNTHETIC_DATA = "made world"
"""Name of the simulated scenes in a student's record of its training, as stored in files."""


@dataclass(frozen=True)
class PoolSettings:
    """Everything that the bytes of a pool depend on, but the number of its scenes.

    Attributes:
        seed: Seed of the pool; pools of different seeds share no scene.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        clip_frames: Frames of a clip, the longest kind of shot.
        clip_fps: Frame rate of a clip.
        simulation: Digest of the code of the simulated world.
        kind: Kind of the scenes, as `World` takes it; "" for plain scenes.
    """

    seed: int
    width: int
    height: int
    clip_frames: int
    clip_fps: float
    simulation: str
    kind: str = ""

    @property
    def key(self) -> str:
        """Return the name of the pool in the cache."""
        document = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:12]


@lru_cache
def simulation_digest() -> str:
    """Return a digest of the code of the simulated world; comments and docstrings do not count."""
    digest = hashlib.sha256()
    for path in sorted(Path(edge.simulation.__path__[0]).glob("**/*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_bare_string(part)]  # type: ignore[attr-defined]
        digest.update(path.name.encode() + ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _is_bare_string(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@dataclass(frozen=True)
class ShotIndex:
    """Entry of a shot in its shard.

    Attributes:
        scene: Seed of the scene.
        twins: Whether the scene has two identical targets of which one moves.
        ticks: Ascending ticks of the frames.
        target_ticks: Ascending ticks of which the targets are stored: those of frames, and some before them.
        labelled: Positions in `ticks` of the frames of which the density can be computed.
    """

    scene: int
    twins: bool
    ticks: tuple[int, ...]
    target_ticks: tuple[int, ...]
    labelled: tuple[int, ...]


@dataclass(frozen=True)
class Shot:
    """Some frames of a scene, close to each other in time, and the targets in and shortly before them.

    It is a source of targets for `trainer.data.gaze_model.gaze_density`, whose index of a frame is its tick.

    Attributes:
        index: Entry in the shard.
        frames: Frames (N, height, width, 3), uint8, BGR, as a view of the file.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        shard: Number of the shard.
        first_label: Number of labelled frames that precede those of this shot in the shard.
        is_empty: The scene has no targets.
        fps: Ticks per second.
    """

    index: ShotIndex
    frames: NDArray[np.uint8]
    _target_lists: tuple[NDArray[np.uint8], ...]
    shard: int = 0
    first_label: int = 0
    is_empty: bool = False
    fps: float = TICKS_PER_S

    @property
    def width(self) -> int:
        """Return the width of the frames in pixels."""
        return int(self.frames.shape[2])

    @property
    def height(self) -> int:
        """Return the height of the frames in pixels."""
        return int(self.frames.shape[1])

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Return the targets at a tick, or at the nearest tick that is stored."""
        nearest = int(np.abs(np.array(self.index.target_ticks) - index).argmin())
        document = json.loads(self._target_lists[nearest].tobytes())
        return tuple(VisibleTarget(**{**target, "box": tuple(target["box"])}) for target in document)


class ScenePool:
    """Random access to the shots of some shards of a pool. It can be pickled, for other processes.

    Args:
        folder: Folder of the pool.
        shards: Numbers of the shards to draw from.
        empty_shards: Numbers of the shards with scenes without targets.

    Raises:
        InputError: A shard is missing or damaged.

    Attributes:
        settings: Settings of the pool.
        shards: Numbers of the shards with targets.
    """

    def __init__(self, folder: Path, shards: Sequence[int], empty_shards: Sequence[int] = ()) -> None:
        self.settings, self.shards = read_settings(folder), shards
        self._folder, self._empty_shards = folder, empty_shards

    def draw(self, rng: np.random.Generator, twins: float, clip: bool = False, empty: float = 0.0) -> Shot:
        """Return a random shot of a random scene.

        Args:
            rng: Random numbers.
            twins: Share of draws with targets that come from scenes with twins.
            clip: Whether to draw clips only.
            empty: Share of draws that come from scenes without targets.
        """
        # Without a share no number is drawn, so that recipes without one keep their samples.
        is_empty = bool(empty and rng.random() < empty)
        has_twins = not is_empty and bool(rng.random() < twins)
        scenes = self._scenes[is_empty, has_twins, clip]
        shots = scenes[int(rng.integers(len(scenes)))]
        shard, position = shots[int(rng.integers(len(shots)))]
        return _open_shot(self._folder, shard, position, is_empty)

    def shots(self, shard: int) -> Iterator[Shot]:
        """Yield all shots of a shard in their order."""
        for position in range(len(read_index(shard_path(self._folder, shard)))):
            yield _open_shot(self._folder, shard, position)

    def split(self, shards: int) -> tuple[ScenePool, ScenePool]:
        """Return the first shards as a pool, and the others as another one.

        Shards with targets and shards without are split alike. Where there are no others, both pools have the
        first ones.

        Args:
            shards: Number of shards of the first pool.
        """
        targets, empty = self.shards, self._empty_shards
        first, first_empty = targets[:shards], empty[:shards]
        others, other_empty = targets[shards:] or first, empty[shards:] or first_empty
        return ScenePool(self._folder, first, first_empty), ScenePool(self._folder, others, other_empty)

    @cached_property
    def _scenes(self) -> dict[tuple[bool, bool, bool], list[list[tuple[int, int]]]]:
        """Return shard and position of each scene's shots.

        The key says whether the scene is without targets, whether it has twins, and whether only clips count.
        """
        scenes: dict[tuple[bool, bool, bool], dict[int, list[tuple[int, int]]]] = {}
        shards = [(number, False) for number in self.shards] + [
            (number, True) for number in self._empty_shards
        ]
        for shard, is_empty in shards:
            for position, shot in enumerate(read_index(shard_path(self._folder, shard, is_empty))):
                is_clip = len(shot.labelled) == len(shot.ticks)  # a short shot has frames without a density
                for clip in {False, is_clip}:
                    by_scene = scenes.setdefault((is_empty, shot.twins, clip), {})
                    by_scene.setdefault(shot.scene, []).append((shard, position))
        return {kind: list(by_scene.values()) for kind, by_scene in scenes.items()}


class ShardName(NamedTuple):
    """Number of a shard, and whether its scenes are without targets."""

    number: int
    is_empty: bool = False


def shard_path(folder: Path, number: int, is_empty: bool = False) -> Path:
    """Return the path of a shard, of scenes with targets or without any."""
    return folder / f"{'empty' if is_empty else 'shard'}-{number:06d}.npz"


def read_settings(folder: Path) -> PoolSettings:
    """Read the settings of a pool.

    Raises:
        InputError: There is no pool, or this version cannot read it.
    """
    try:
        document = json.loads((folder / SETTINGS_FILE).read_text())
        if document.pop("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        return PoolSettings(**document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder} is not a pool of scenes ({error}); expected {SETTINGS_FILE} and shards by aerogaze "
            "train: name an empty or new folder, and it is made there"
        ) from None


def pack_shard(shots: Iterable[tuple[ShotIndex, Sequence[Any], Sequence[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a shard.

    Args:
        shots: For each shot its entry, its frames (H, W, 3), and the targets at each of its target ticks.
    """
    indices: list[dict[str, Any]] = []
    frames: list[Any] = []
    lists: list[bytes] = []
    for index, images, targets in shots:
        indices.append(asdict(index))
        frames += images
        lists += [json.dumps([_pack_target(target) for target in at_tick]).encode() for at_tick in targets]
    document = json.dumps({"format": FORMAT, "shots": indices})
    return {
        "index": np.frombuffer(document.encode(), np.uint8),
        "frames": np.stack(frames),
        "targets": np.frombuffer(b"".join(lists), np.uint8),
        "target_ends": np.cumsum([len(part) for part in lists]),
    }


def _pack_target(target: VisibleTarget) -> dict[str, Any]:
    # Three decimals of a pixel, and five digits of the rest, say all that a density depends on.
    return {
        name: [round(side, 3) for side in value]
        if isinstance(value, tuple)
        else round(value, 5)
        if isinstance(value, float)
        else value
        for name, value in asdict(target).items()
    }


@cached_per_file(1024)
def read_index(path: Path) -> tuple[ShotIndex, ...]:
    """Read the entries of a shard's shots.

    Raises:
        InputError: The shard is missing or damaged.
    """
    try:
        document = json.loads(map_arrays(path)["index"].tobytes())
        if document["format"] != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        return tuple(
            ShotIndex(
                shot["scene"],
                shot["twins"],
                tuple(shot["ticks"]),
                tuple(shot["target_ticks"]),
                tuple(shot["labelled"]),
            )
            for shot in document["shots"]
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it, and it is rendered again by the next training"
        ) from None


def is_intact(path: Path) -> bool:
    """Return whether a shard exists and all of its checksums are right."""
    try:
        with zipfile.ZipFile(path) as members:
            return members.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


@cached_per_file(1024)
def _starts(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return where each shot's frames, lists of targets and labels start, and where the last ones end."""
    index = read_index(path)
    return (
        np.cumsum([0, *(len(shot.ticks) for shot in index)]),
        np.cumsum([0, *(len(shot.target_ticks) for shot in index)]),
        np.cumsum([0, *(len(shot.labelled) for shot in index)]),
    )


def _open_shot(folder: Path, shard: int, position: int, is_empty: bool = False) -> Shot:
    path = shard_path(folder, shard, is_empty)
    arrays, index = map_arrays(path), read_index(path)[position]
    frames, lists, labels = _starts(path)
    ends = arrays["target_ends"]
    target_lists = tuple(
        arrays["targets"][ends[at - 1] if at else 0 : ends[at]]
        for at in range(lists[position], lists[position + 1])
    )
    images = arrays["frames"][frames[position] : frames[position + 1]]
    return Shot(index, images, target_lists, shard, int(labels[position]), is_empty)
