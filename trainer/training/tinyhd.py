"""TinyHD's distillation in stages: the teacher, teacher assistants of larger width, the student.

Hu et al., "TinyHD", WACV 2023, arXiv 2301.04619. Each student learns all maps that its teacher also has, and
the ground truth (`trainer.losses.hierarchical`). A trained assistant is the teacher of the next network.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from trainer.data.clip_windows import (
    FPS,
    MixedWindowDataset,
    SyntheticWindows,
    WindowDataset,
    WindowShape,
)
from trainer.data.scene_pool import SYNTHETIC_DATA, ScenePool
from trainer.data.teacher_maps import open_maps
from trainer.datasets.clips import UNLABELLED_KINDS, SaliencyDataset
from trainer.datasets.factory import open_dataset
from trainer.losses.hierarchical import hierarchical_loss, kl, truth_loss
from trainer.models.hd2s import HD2S
from trainer.models.mobilenet3d import CLIP_FRAMES, Reduction
from trainer.models.skd import load_overlapping_weights
from trainer.models.streaming import StreamingNetwork
from trainer.models.student import Student, load_student
from trainer.models.tinyhd import SaliencyMaps, TinyHD
from trainer.recipes.loader import TinyHDRecipe
from trainer.recipes.tinyhd import DistilledTable, StreamTable, TeacherTable
from trainer.training.loading import Samples
from trainer.training.loop import TrainingRun, fit, open_run
from trainer.training.pool import open_scenes
from trainer.training.stage import Batch, TrainingStage

STREAMS_PER_SEED = 8
"""Sequences of random draws per seed, more than there are stages."""


class ClipStage(TrainingStage):
    """Stage whose network takes a clip; batches have the keys of `trainer.data.clip_windows.WindowSample`."""

    memory_format = torch.channels_last_3d
    # oneDNN's bfloat16 gradients of depthwise 3-D convolutions differ from run to run.
    allows_bfloat16_on_cpu = False


class TeacherTraining(ClipStage):
    """Stage that trains HD2S on the ground truth at the last frame of a window."""

    def __init__(self, table: TeacherTable) -> None:
        super().__init__(table)
        self._supervision = table.supervision
        self.network = HD2S()

    def loss(self, batch: Batch) -> Tensor:
        """Return KL(truth, y) + `supervision` times the sum of KL(truth, conspicuity map)."""
        maps, truth = self.network(batch["clip"][:, :3, -CLIP_FRAMES:]), batch["density"][:, -1:]
        loss = kl(truth, maps.fused)
        for part in maps.parts.values() if self._supervision else ():
            loss = loss + self._supervision * kl(truth, part)
        return loss


class StudentDistillation(ClipStage):
    """Stage in which a network for clips of 16 frames learns from a teacher, if any, and the ground truth.

    Args:
        table: Table of the stage.
        network: Network to train; it returns `SaliencyMaps`.
        teacher: Network to learn from, or None.
    """

    def __init__(self, table: DistilledTable, network: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__(table)
        self._supervision = table.supervision
        self.network = network
        if isinstance(network, StreamingNetwork):
            # Its convolutions are 2-D, for which oneDNN's bfloat16 gradients are reproducible.
            self.memory_format, self.allows_bfloat16_on_cpu = torch.channels_last, True
        # A list hides the teacher from torch, so that it is neither trained nor averaged.
        self._teacher = [] if teacher is None else [teacher.eval()]

    def loss(self, batch: Batch) -> Tensor:
        """Return the hierarchical loss; a window with an empty density has the teacher's terms alone."""
        maps = self.network(batch["clip"][:, :, -CLIP_FRAMES:])
        steps = maps.fused.shape[1]
        if not self._teacher:
            return truth_loss(maps, batch["density"][:, -steps:], self._supervision)
        targets = run_teacher(self._teacher[0].to(self.device), batch["clip"], steps)
        return hierarchical_loss(maps, targets, batch["density"][:, -steps:], self._supervision)


@torch.no_grad()
def run_teacher(teacher: nn.Module, clip: Tensor, steps: int) -> SaliencyMaps:
    """Return a teacher's maps (N, steps, H, W) of the last `steps` frames of a clip (N, 3 or 6, T, H, W).

    A teacher with `steps` maps runs once. A teacher with a single map runs on one window per frame, which
    ends at that frame, so T must be at least 15 + `steps`.
    """
    if isinstance(teacher, HD2S):
        clip = clip[:, :3]  # it takes no aligned frames
    last: SaliencyMaps = teacher(clip[:, :, -CLIP_FRAMES:])
    if last.fused.shape[1] == steps:
        return last
    frames = clip.shape[2]
    assert last.fused.shape[1] == 1, f"a teacher with {last.fused.shape[1]} maps for a student with {steps}"
    assert frames >= CLIP_FRAMES + steps - 1, f"{frames} frames for {steps} windows"
    windows = [teacher(clip[:, :, end - CLIP_FRAMES : end]) for end in range(frames - steps + 1, frames)] + [
        last
    ]
    return SaliencyMaps(
        torch.cat([maps.fused for maps in windows], dim=1),
        {name: torch.cat([maps.parts[name] for maps in windows], dim=1) for name in last.parts},
    )


def distil(recipe: TinyHDRecipe, run: TrainingRun | None = None) -> Student:
    """Train a student by hierarchical distillation and return it in evaluation mode.

    Args:
        recipe: Recipe of the student.
        run: Where to store checkpoints; None stores nothing.

    Raises:
        InputError: Data or weights are missing or do not fit, found before anything is trained or stored;
            see also `open_run` and `fit`.
    """
    L.seed_everything(recipe.seed, verbose=False)
    data = _ClipData(recipe)
    hd2s = TeacherTraining(recipe.teacher) if recipe.teacher else None
    if hd2s and recipe.teacher and recipe.teacher.weights:
        load_teacher(hd2s.network, recipe.teacher.weights)
    tables = [(name, table) for name, table in recipe.stages.items() if isinstance(table, DistilledTable)]
    reductions = [*(recipe.assistants.rc if recipe.assistants else ()), recipe.student.rc]
    networks = [_build_student(recipe, rc) for rc in reductions]
    if recipe.distillation.start:
        _load_start(networks[-1], recipe, recipe.distillation.start)
    data.open_pool(run)
    open_run(run or TrainingRun(), recipe)
    if hd2s and recipe.teacher and recipe.teacher.steps:
        fit("teacher", hd2s, data.samples(0, CLIP_FRAMES, 1), recipe, recipe.teacher, run)
    teacher: nn.Module | None = hd2s.network if hd2s else None
    maps = recipe.student.maps
    for index, ((name, table), network) in enumerate(zip(tables, networks, strict=True), 1):
        # HD2S returns one map per clip, so it needs a clip for each map. All others return all maps at once.
        frames = CLIP_FRAMES + maps - 1 if teacher is not None and index == 1 else CLIP_FRAMES
        samples = data.samples(index, frames, maps, auxiliary=True)
        fit(name, StudentDistillation(table, network, teacher), samples, recipe, table, run)
        teacher = network
    trained = {"data": data.description, "recipe": recipe.model_dump(mode="json")}
    return Student(recipe.name, recipe.student.settings(recipe.student.rc), networks[-1].eval(), trained)


def list_networks(recipe: TinyHDRecipe) -> list[tuple[str, nn.Module, int]]:
    """Return stage, untrained network and maps per clip for each network of a recipe."""
    maps = recipe.student.maps
    assistants = recipe.assistants.rc if recipe.assistants else ()
    return [
        *([("teacher", HD2S(), 1)] if recipe.teacher else []),
        *((f"assistant-rc{rc}", recipe.student.settings(rc).build(), maps) for rc in assistants),
        ("student", recipe.student.settings(recipe.student.rc).build(), maps),
    ]


def _build_student(recipe: TinyHDRecipe, rc: Reduction) -> TinyHD | StreamingNetwork:
    """Return the student with channel reduction `rc` and the encoder weights that the recipe names."""
    network, start = recipe.student.settings(rc).build(), recipe.student.imagenet
    if isinstance(network, StreamingNetwork):
        if start:
            network.encoder.load_imagenet()
    elif isinstance(start, Path):
        network.encoder.load_imagenet(start)
    return network


def _load_start(network: nn.Module, recipe: TinyHDRecipe, name: str) -> None:
    """Load the weights of an existing student, of the same network for frames of any size.

    A network with alignment may start from one without.

    Raises:
        InputError: No such student, or its network is another one.
    """
    start = load_student(name)
    wanted = vars(recipe.student.settings(recipe.student.rc))
    other = {key: value for key, value in vars(start.settings).items() if value != wanted.get(key)}
    free = {"height", "width"} | ({"align", "lag_s"} if wanted.get("align") else set())
    if differing := other.keys() - free:
        key = min(differing)
        raise InputError(
            f"distillation.start {name} has {key} {other[key]}, the recipe has {wanted.get(key)}; expected a "
            "student of the same network: change the table student, or start from another student"
        )
    load_overlapping_weights(network, start.network)


def load_teacher(network: HD2S, path: Path) -> None:
    """Load the weights of an earlier run into HD2S.

    Args:
        network: Network to change.
        path: Folder of the run, or the file `teacher/done.pt` in it.

    Raises:
        InputError: No such file, or it does not hold the weights of a teacher.
    """
    file = path / "teacher" / "done.pt" if path.is_dir() else path
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    except OSError:
        raise InputError(
            f"no teacher at {file}; expected the folder of a run with a trained teacher, or its done.pt"
        ) from None
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise InputError(
            f"{file} does not hold weights of the teacher HD2S ({type(error).__name__}); "
            "expected teacher/done.pt of an earlier run"
        ) from None


class _ClipData:
    """Clips of a recipe, opened once, with a few frames read to check that they exist.

    Attributes:
        description: What the data are, for the record of the training.
    """

    def __init__(self, recipe: TinyHDRecipe) -> None:
        self._recipe, data = recipe, recipe.data
        self._fps = NOMINAL_FPS if isinstance(recipe.student, StreamTable) else FPS
        student = recipe.student
        prepare = student.settings(student.rc).preprocessing()
        self._shape = WindowShape(
            student.height, student.width, every=round(FPS / self._fps), preprocessing=prepare
        )
        self._labelled = None
        self._pool: ScenePool | None = None
        self.description = SYNTHETIC_DATA
        if data.kind != "world" and data.root:
            self._labelled = self._open(data.kind, data.root, data.split)
            if data.maps:
                self._labelled = self._labelled.with_maps(open_maps(data.maps))
            self.description = " ".join(filter(None, (data.kind, data.split)))
            self.description += " with maps" if data.maps else ""
            if data.kind not in UNLABELLED_KINDS and not any(
                "density" in c.label_kinds for c in self._labelled.clips
            ):
                split = f"split {data.split} of " if data.split else ""
                raise InputError(
                    f"{split}{data.kind} at {data.root} has no density; expected "
                    f"{self._labelled.describe_label_places()}"
                )
        self._auxiliary = self._open("videos", data.auxiliary) if data.auxiliary else None
        self.description += " and auxiliary videos" if self._auxiliary else ""

    def _open(self, kind: str, root: Path, split: str | None = None) -> SaliencyDataset:
        dataset = open_dataset(kind, root, split)
        _ = WindowDataset(dataset, self._shape, 0)[0]  # raises now if nothing can be read
        return dataset

    def open_pool(self, run: TrainingRun | None) -> None:
        """Open the pool of simulated scenes, if no data set takes its place."""
        if self._labelled is None:
            size = self._shape.width, self._shape.height
            self._pool = open_scenes(self._recipe, self._recipe.world, run, self._fps, size)

    def samples(self, stage: int, frames: int, densities: int, auxiliary: bool = False) -> Samples:
        """Return the samples of a stage; each stage draws differently from the pool.

        Args:
            stage: Index of the stage.
            frames: Frames in a window.
            densities: How many of the last frames have a density.
            auxiliary: Whether to add windows of the auxiliary videos.
        """
        recipe = self._recipe
        shape = replace(self._shape, frames=frames, densities=densities)
        seed = recipe.seed * STREAMS_PER_SEED + stage
        extra = WindowDataset(self._auxiliary, shape, seed) if auxiliary and self._auxiliary else None
        if self._labelled:
            windows: WindowDataset | SyntheticWindows = WindowDataset(self._labelled, shape, seed)
        else:
            assert self._pool is not None
            windows = SyntheticWindows(self._pool, recipe.world, shape, seed)
        return MixedWindowDataset(windows, extra, seed) if extra else windows
