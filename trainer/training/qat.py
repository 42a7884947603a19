"""Quantisation-aware distillation: a student through fake quantisation, taught by itself in fp32.

Straight-through gradients (Bengio et al., arXiv 1308.3432); weights' scales follow the weights, activations'
stay as calibrated (one of the ways in Wu et al., "Integer quantization for deep learning inference", arXiv
2004.09602). The teacher is the student before (Mishra & Marr, "Apprentice", ICLR 2018, in its third scheme).
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, replace
from itertools import islice

import lightning as L
import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.data import default_collate

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import kld
from edge.release.manifest import Form, Release, load_release
from edge.release.quantization import QUANTIZATION_FILE, TRAINED_KEY, QuantizationRecord, load_quantization
from trainer.data.clip_windows import FPS, SyntheticWindowStream, WindowDataset, WindowShape
from trainer.datasets.factory import open_dataset
from trainer.losses.saliency import kl_cc
from trainer.models.batch_norm_folding import unfold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import SETTINGS_BY_KIND, Student, load_student
from trainer.recipes.loader import QatRecipe, StageTable
from trainer.training.fake_quantization import fake_quantize, rounding_disabled, run_form
from trainer.training.loop import TrainingRun, fit, open_run, process_group
from trainer.training.stage import Batch, TrainingStage

MIN_SALIENCY = 1e-12
"""Of a map in 0 to 1 whose logarithm is taken."""
EVALUATION_BATCHES = 4
"""Batches, of other windows, that the student is judged on before and after."""
NAME_SUFFIX = "-qat"
ENGINE = "tensorrt"
"""Whose placement of Q/DQ is trained through: signed and symmetric."""


class SelfDistillation(TrainingStage):
    """KL and 1 - CC to the maps of the student before, in fp32."""

    def __init__(self, table: StageTable, student: Student, form: Form, network: fx.GraphModule) -> None:
        super().__init__(table)
        self.network = network
        self._student, self._form = student, form
        if form == "clip":
            self.layout = torch.channels_last_3d
        # In a list, so that the teacher is not this module's own: not trained, not averaged.
        self._teacher = [copy.deepcopy(forms_of(student).modules[form]).eval().requires_grad_(False)]

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the maps of windows (N, 3, T, H, W), rounded and not.

        The student's own float graphs shall not drift: int8 is held to them when it is exported.
        """
        window = batch["clip"]
        got, wanted = self.maps(window)
        with rounding_disabled(self.network):
            plain = _flatten_maps(run_form(self.network, self._student, self._form, window))
        return sum(
            (kl_cc(maps.clamp_min(MIN_SALIENCY).log(), wanted) for maps in (got, plain)), got.new_zeros(())
        )

    def maps(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rounded network's maps and the teacher's, (N, 1, H, W)."""
        with torch.no_grad():
            teacher = self._teacher[0].to(window.device)
            wanted = run_form(teacher, self._student, self._form, window)
        return _flatten_maps(run_form(self.network, self._student, self._form, window)), _flatten_maps(wanted)


def _flatten_maps(maps: Tensor) -> Tensor:
    """Return maps (N, many, H, W) one by one, (N * many, 1, H, W)."""
    return maps.flatten(0, 1)[:, None].float()


def tune(recipe: QatRecipe, run: TrainingRun | None = None) -> Student:
    """Tune a student to int8 as the recipe says and return it in evaluation mode.

    What it says of its training then tells the ranges that it was trained through: export and calibrate
    keep them.

    Raises:
        InputError: no such student or release, or the one is not of the other; data that are not there;
            torchao is missing; or as `open_run` and `fit` do.
    """
    run = run or TrainingRun()
    student = load_student(recipe.student.weights)
    made = load_release(recipe.student.release)
    form, told = _form_and_record(student, made)
    places, samples = told.places[ENGINE], _samples(recipe, student, recipe.seed * 2)
    recipe = recipe.model_copy(
        update={"student": recipe.student.model_copy(update={"sha256": _hash(student, told)})}
    )
    open_run(run, recipe)
    L.seed_everything(recipe.seed, verbose=False)
    batch = max(1, recipe.tuning.batch // process_group().world)
    network = fake_quantize(student, form, batch, told, ENGINE)
    stage = SelfDistillation(recipe.tuning, student, form, network)
    windows = _batches(_samples(recipe, student, recipe.seed * 2 + 1), batch)
    before = _mean_kld(stage, windows)
    fit("tuning", stage, samples, recipe, recipe.tuning, run)
    stage.cpu()
    module = copy.deepcopy(forms_of(student).modules[form])
    unfold_batch_norm(module, dict(network.named_parameters()))
    tuned = replace(student, network=module.get_submodule("network").eval())
    trained = {
        **student.trained,
        "qat": {
            "recipe": recipe.model_dump(mode="json"),
            "data": recipe.data.kind if recipe.data.root else "made world",
            "kld_before": before,
            "kld_after": _mean_kld(stage, windows),
        },
        TRAINED_KEY: {"form": form, "engine": ENGINE, "ranges": places.ranges},
    }
    return replace(tuned, name=student.name.removesuffix(NAME_SUFFIX) + NAME_SUFFIX, trained=trained)


def _form_and_record(student: Student, made: Release) -> tuple[Form, QuantizationRecord]:
    """Return the form to tune and its places: the stream's if there is one."""
    kind = SETTINGS_BY_KIND.get(str(made.student.get("kind")))
    if kind is None or kind(**made.student) != student.settings or made.trained != student.trained:
        raise InputError(
            f"release {made.name} was not made of student {student.name}: they tell of other training; "
            "expected the student's own release: make it with aerogaze export"
        )
    found = load_quantization(made.folder / QUANTIZATION_FILE)
    form, told = next(iter(found.items()))
    return form, told


def _samples(recipe: QatRecipe, student: Student, stream: int) -> SyntheticWindowStream | WindowDataset:
    """Return windows as long as a map's memory, at the student's size."""
    prepare, data, world = student.settings.preprocessing(), recipe.data, recipe.world
    shape = WindowShape(prepare.height, prepare.width, forms_of(student).window, 0, preprocessing=prepare)
    if data.root:
        # What looks back by seconds counts its window at the nominal rate; else a frame follows the other.
        by_seconds = prepare.alignment is not None or any(s.lag_s for s in forms_of(student).states)
        apart = replace(shape, every=round(FPS / NOMINAL_FPS) if by_seconds else 1)
        windows = WindowDataset(open_dataset(data.kind, data.root, data.split), apart, stream)
        _ = windows[0]  # nothing readable is told now
        return windows
    size = world.width, world.height
    return SyntheticWindowStream(shape, world.frames, world.buffer, world.reuse, stream, size, NOMINAL_FPS)


def _batches(samples: SyntheticWindowStream | WindowDataset, batch: int) -> list[Tensor]:
    windows = [sample["clip"] for sample in islice(iter(samples), EVALUATION_BATCHES * batch)]
    return [default_collate(windows[at : at + batch]) for at in range(0, len(windows), batch)]


@torch.no_grad()
def _mean_kld(stage: SelfDistillation, windows: list[Tensor]) -> float:
    """Return the mean KLD between maps in int8 and in fp32."""
    pairs = [pair for window in windows for pair in zip(*stage.maps(window), strict=True)]
    return float(np.mean([kld(got[0].numpy(), wanted[0].numpy()) for got, wanted in pairs]))


def _hash(student: Student, told: QuantizationRecord) -> str:
    digest = hashlib.sha256(json.dumps(asdict(told), sort_keys=True).encode())
    for name, value in student.network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
