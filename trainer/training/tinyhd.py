"""TinyHD's training, in stages: the teacher, teacher assistants of larger width, the student.

Hu et al., "TinyHD", WACV 2023, arXiv 2301.04619. Each student learns all the maps of its teacher that it
has too, and the truth (`trainer.losses.hierarchical`); once trained, an assistant is the next one's teacher.
"""

from __future__ import annotations

import pickle
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
    MixedWindowStream,
    SyntheticWindowStream,
    WindowDataset,
    WindowShape,
)
from trainer.data.teacher_maps import open_maps
from trainer.datasets.clips import SaliencyDataset
from trainer.datasets.factory import open_dataset
from trainer.losses.hierarchical import hierarchical_loss, kl, truth_loss
from trainer.models.hd2s import HD2S
from trainer.models.mobilenet3d import CLIP_FRAMES, Reduction
from trainer.models.streaming import StreamingNetwork
from trainer.models.student import Student
from trainer.models.tinyhd import SaliencyMaps, TinyHD
from trainer.recipes.loader import TinyHDRecipe
from trainer.recipes.tinyhd import DistilledTable, StreamTable, TeacherTable
from trainer.training.loop import Samples, TrainingRun, fit, open_run
from trainer.training.stage import Batch, TrainingStage

STREAMS_PER_SEED = 8
"""Streams of made scenes that a seed has: more than stages."""


class ClipStage(TrainingStage):
    """A stage whose network sees a clip; batches are of `trainer.data.clip_windows.WindowSample`."""

    layout = torch.channels_last_3d
    allows_bfloat16_on_cpu = (
        False  # oneDNN's bfloat16 gradients of depthwise 3-D convolutions differ from run to run
    )


class TeacherTraining(ClipStage):
    """HD2S on the truth at a window's last frame."""

    def __init__(self, table: TeacherTable) -> None:
        super().__init__(table)
        self._supervision = table.supervision
        self.network = HD2S()

    def loss(self, batch: Batch) -> Tensor:
        """Return KL(truth, y) + `supervision` times the sum of KL(truth, conspicuity map)."""
        maps, truth = self.network(batch["clip"][:, :, -CLIP_FRAMES:]), batch["density"][:, -1:]
        loss = kl(truth, maps.fused)
        for part in maps.parts.values() if self._supervision else ():
            loss = loss + self._supervision * kl(truth, part)
        return loss


class StudentDistillation(ClipStage):
    """Any network that gives `SaliencyMaps` of a clip of 16 frames, taught by any other, if any, and by the truth."""

    def __init__(self, table: DistilledTable, network: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__(table)
        self._supervision = table.supervision
        self.network = network
        if isinstance(network, StreamingNetwork):
            self.layout, self.allows_bfloat16_on_cpu = (
                torch.channels_last,
                True,
            )  # its convolutions have two dimensions
        # In a list, so that the teacher is not this module's own: not trained, not averaged.
        self._teacher = [] if teacher is None else [teacher.eval()]

    def loss(self, batch: Batch) -> Tensor:
        """Return the hierarchical loss; of a window with an empty density, the teacher's terms alone."""
        maps = self.network(batch["clip"][:, :, -CLIP_FRAMES:])
        steps = maps.fused.shape[1]
        if not self._teacher:
            return truth_loss(maps, batch["density"][:, -steps:], self._supervision)
        taught = run_teacher(self._teacher[0].to(self.device), batch["clip"], steps)
        return hierarchical_loss(maps, taught, batch["density"][:, -steps:], self._supervision)


@torch.no_grad()
def run_teacher(teacher: nn.Module, clip: Tensor, steps: int) -> SaliencyMaps:
    """Return a teacher's maps (N, steps, H, W) of the last `steps` frames of a clip (N, 3, T, H, W).

    A teacher of as many maps runs once. One of a single map runs on a window for each frame, which ends
    at that very frame: T is then 15 + `steps` or more.
    """
    last: SaliencyMaps = teacher(clip[:, :, -CLIP_FRAMES:])
    if last.fused.shape[1] == steps:
        return last
    frames = clip.shape[2]
    assert last.fused.shape[1] == 1, f"a teacher of {last.fused.shape[1]} maps for a student of {steps}"
    assert frames >= CLIP_FRAMES + steps - 1, f"{frames} frames for {steps} windows"
    windows = [teacher(clip[:, :, end - CLIP_FRAMES : end]) for end in range(frames - steps + 1, frames)] + [
        last
    ]
    return SaliencyMaps(
        torch.cat([maps.fused for maps in windows], dim=1),
        {name: torch.cat([maps.parts[name] for maps in windows], dim=1) for name in last.parts},
    )


def distil(recipe: TinyHDRecipe, run: TrainingRun | None = None) -> Student:
    """Train a student as the recipe says and return it in evaluation mode.

    Raises:
        InputError: data or weights that are not there or do not fit, told before anything is trained or
            kept; or as `open_run` and `fit` do.
    """
    L.seed_everything(recipe.seed, verbose=False)
    data = _ClipData(recipe)
    first = TeacherTraining(recipe.teacher) if recipe.teacher else None
    if first and recipe.teacher and recipe.teacher.weights:
        load_teacher(first.network, recipe.teacher.weights)
    tables = [(name, table) for name, table in recipe.stages.items() if isinstance(table, DistilledTable)]
    widths = [*(recipe.assistants.rc if recipe.assistants else ()), recipe.student.rc]
    list_networks = [_build_student(recipe, rc) for rc in widths]
    open_run(run or TrainingRun(), recipe)
    if first and recipe.teacher and recipe.teacher.steps:
        fit("teacher", first, data.samples(0, CLIP_FRAMES, 1), recipe, recipe.teacher, run)
    teacher: nn.Module | None = first.network if first else None
    maps = recipe.student.maps
    for place, ((name, table), network) in enumerate(zip(tables, list_networks, strict=True), 1):
        # HD2S gives a map of a clip, all others give theirs of one clip.
        frames = CLIP_FRAMES + maps - 1 if teacher is not None and place == 1 else CLIP_FRAMES
        samples = data.samples(place, frames, maps, auxiliary=True)
        fit(name, StudentDistillation(table, network, teacher), samples, recipe, table, run)
        teacher = network
    trained = {"data": data.told, "recipe": recipe.model_dump(mode="json")}
    return Student(recipe.name, recipe.student.settings(recipe.student.rc), list_networks[-1].eval(), trained)


def list_networks(recipe: TinyHDRecipe) -> list[tuple[str, nn.Module, int]]:
    """Return stage, network and maps of a clip for each network that takes part, untrained."""
    maps = recipe.student.maps
    assistants = recipe.assistants.rc if recipe.assistants else ()
    return [
        *([("teacher", HD2S(), 1)] if recipe.teacher else []),
        *((f"assistant-rc{rc}", recipe.student.settings(rc).build(), maps) for rc in assistants),
        ("student", recipe.student.settings(recipe.student.rc).build(), maps),
    ]


def _build_student(recipe: TinyHDRecipe, rc: Reduction) -> TinyHD | StreamingNetwork:
    """Return the student of that rc with the encoder weights that the recipe starts from."""
    network, start = recipe.student.settings(rc).build(), recipe.student.imagenet
    if isinstance(network, StreamingNetwork):
        if start:
            network.encoder.load_imagenet()
    elif isinstance(start, Path):
        network.encoder.load_imagenet(start)
    return network


def load_teacher(network: HD2S, path: Path) -> None:
    """Give HD2S the weights of an earlier run: its folder, or the file `teacher/done.pt` in it.

    Raises:
        InputError: no such file, or no teacher's weights.
    """
    file = path / "teacher" / "done.pt" if path.is_dir() else path
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    except OSError:
        raise InputError(
            f"no teacher at {file}; expected the folder of a run whose teacher is trained, or its done.pt"
        ) from None
    except (RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{file} has no weights of the teacher HD2S ({str(error).splitlines()[0]}); "
            "expected teacher/done.pt of an earlier run"
        ) from None


class _ClipData:
    """The recipe's clips, opened once, and a few read to see that they are there."""

    def __init__(self, recipe: TinyHDRecipe) -> None:
        self._recipe, data = recipe, recipe.data
        self._fps = NOMINAL_FPS if isinstance(recipe.student, StreamTable) else FPS
        self._shape = WindowShape(recipe.student.height, recipe.student.width, every=round(FPS / self._fps))
        self._labelled = None
        self.told = "made world"
        if data.kind != "world" and data.root:
            self._labelled = self._open(data.kind, data.root, data.split)
            if data.maps:
                self._labelled = self._labelled.with_maps(open_maps(data.maps))
            self.told = " ".join(filter(None, (data.kind, data.split)))
            self.told += " with maps" if data.maps else ""
            if data.kind != "videos" and not any("density" in c.label_kinds for c in self._labelled.clips):
                of = f"split {data.split} of " if data.split else ""
                raise InputError(
                    f"{of}{data.kind} at {data.root} has no density; docs/data.md says where it lies"
                )
        self._auxiliary = self._open("videos", data.auxiliary) if data.auxiliary else None
        self.told += " and auxiliary videos" if self._auxiliary else ""

    def _open(self, kind: str, root: Path, split: str | None = None) -> SaliencyDataset:
        dataset = open_dataset(kind, root, split)
        _ = WindowDataset(dataset, self._shape, 0)[0]  # nothing readable is told now
        return dataset

    def samples(self, place: int, frames: int, densities: int, auxiliary: bool = False) -> Samples:
        """Return what the stage at a place is given; each sees made scenes of its own."""
        recipe, world = self._recipe, self._recipe.world
        shape = replace(self._shape, frames=frames, densities=densities)
        seed = recipe.seed * STREAMS_PER_SEED + place
        extra = WindowDataset(self._auxiliary, shape, seed) if auxiliary and self._auxiliary else None
        if self._labelled:
            windows = WindowDataset(self._labelled, shape, seed)
            return MixedWindowDataset(windows, extra, seed) if extra else windows
        made = SyntheticWindowStream(shape, world.frames, world.buffer, world.reuse, seed, fps=self._fps)
        return MixedWindowStream(made, extra, seed) if extra else made
