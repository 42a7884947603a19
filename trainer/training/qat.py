"""Quantization-aware distillation: a student with fake quantization learns from itself in fp32.

Gradients are straight-through (Bengio et al., arXiv 1308.3432). Scales of weights follow the weights, and
those of activations stay as calibrated, one of the ways in Wu et al., "Integer quantization for deep learning
inference", arXiv 2004.09602. The teacher is the student before tuning, as in the third scheme of Mishra and
Marr, "Apprentice", ICLR 2018.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, replace

import lightning as L
import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.data import default_collate

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import kld
from edge.release.manifest import load_release
from edge.release.quantization import QUANTIZATION_FILE, TRAINED_KEY, QuantizationRecord, load_quantization
from edge.release.release import Form, Release
from trainer.data.clip_windows import FPS, SyntheticWindows, WindowDataset, WindowShape
from trainer.data.scene_pool import SCENES_PER_SHARD, SYNTHETIC_DATA
from trainer.datasets.factory import open_dataset
from trainer.losses.saliency import kl_cc
from trainer.models.batch_norm_folding import unfold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import SETTINGS_BY_KIND, Student, load_student
from trainer.recipes.loader import QatRecipe, StageTable
from trainer.training.distributed import process_group
from trainer.training.fake_quantization import fake_quantize, rounding_disabled, run_form
from trainer.training.loop import TrainingRun, fit, open_run
from trainer.training.pool import open_scenes
from trainer.training.stage import Batch, TrainingStage

MIN_SALIENCY = 1e-12
"""Lower limit of a map in 0 to 1 before its logarithm is taken."""
EVALUATION_BATCHES = 4
"""Batches of other windows on which the student is evaluated before and after."""
NAME_SUFFIX = "-qat"
ENGINE = "tensorrt"
"""Engine whose Q/DQ placement is trained with: signed and symmetric."""


class SelfDistillation(TrainingStage):
    """Stage whose loss is KL + (1 - CC) against the fp32 maps of the untuned student.

    Args:
        table: Table of the stage.
        student: Student before tuning.
        form: Form that is tuned.
        network: The form with fake quantization.
    """

    def __init__(self, table: StageTable, student: Student, form: Form, network: fx.GraphModule) -> None:
        super().__init__(table)
        self.network = network
        self._student, self._form = student, form
        if form == "clip":
            self.memory_format = torch.channels_last_3d
        # A list hides the teacher from torch, so that it is neither trained nor averaged.
        self._teacher = [copy.deepcopy(forms_of(student).modules[form]).eval().requires_grad_(False)]

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of the maps of windows (N, 3, T, H, W), with and without fake quantization.

        The float graphs must not drift, because export compares int8 with them.
        """
        window = batch["clip"]
        quantized, targets = self.maps(window)
        with rounding_disabled(self.network):
            float_maps = _flatten_maps(run_form(self.network, self._student, self._form, window))
        losses = (kl_cc(maps.clamp_min(MIN_SALIENCY).log(), targets) for maps in (quantized, float_maps))
        return sum(losses, quantized.new_zeros(()))

    def maps(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return the quantized network's maps and the teacher's maps, (N, 1, H, W)."""
        with torch.no_grad():
            teacher = self._teacher[0].to(window.device)
            targets = _flatten_maps(run_form(teacher, self._student, self._form, window))
        return _flatten_maps(run_form(self.network, self._student, self._form, window)), targets


def _flatten_maps(maps: Tensor) -> Tensor:
    """Return maps (N, K, H, W) as single maps (N * K, 1, H, W)."""
    return maps.flatten(0, 1)[:, None].float()


def tune(recipe: QatRecipe, run: TrainingRun | None = None) -> Student:
    """Tune a student for int8 and return it in evaluation mode.

    The student's record of its training then holds the ranges that it was tuned with, so that export and
    calibration keep them.

    Args:
        recipe: Recipe with the student and its release.
        run: Where to store checkpoints; None stores nothing.

    Raises:
        InputError: No such student or release, a release of another student, missing data, or torchao is not
            installed; see also `open_run` and `fit`.
    """
    run = run or TrainingRun()
    student = load_student(recipe.student.weights)
    form, record = _form_and_record(student, load_release(recipe.student.release))
    digest = _digest(student, record)
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"sha256": digest})})
    samples, others = _samples(recipe, student, run)
    open_run(run, recipe)
    L.seed_everything(recipe.seed, verbose=False)
    batch = max(1, recipe.tuning.batch // process_group().world_size)
    network = fake_quantize(student, form, batch, record, ENGINE)
    stage = SelfDistillation(recipe.tuning, student, form, network)
    windows = _batches(others, batch)
    kld_before = _mean_kld(stage, windows)
    fit("tuning", stage, samples, recipe, recipe.tuning, run)
    stage.cpu()
    module = copy.deepcopy(forms_of(student).modules[form])
    unfold_batch_norm(module, dict(network.named_parameters()))
    tuned = replace(student, network=module.get_submodule("network").eval())
    trained = {
        **student.trained,
        "qat": {
            "recipe": recipe.model_dump(mode="json"),
            "data": recipe.data.kind if recipe.data.root else SYNTHETIC_DATA,
            "kld_before": kld_before,
            "kld_after": _mean_kld(stage, windows),
        },
        TRAINED_KEY: {"form": form, "engine": ENGINE, "ranges": record.places[ENGINE].ranges},
    }
    return replace(tuned, name=student.name.removesuffix(NAME_SUFFIX) + NAME_SUFFIX, trained=trained)


def _form_and_record(student: Student, release: Release) -> tuple[Form, QuantizationRecord]:
    """Return the form to tune, the stream if there is one, and its Q/DQ placements."""
    settings_class = SETTINGS_BY_KIND.get(str(release.student.get("kind")))
    if (
        settings_class is None
        or settings_class(**release.student) != student.settings
        or release.trained != student.trained
    ):
        raise InputError(
            f"release {release.name} was not made of student {student.name}, their records of training "
            "differ; expected the student's own release: make it with aerogaze export"
        )
    records = load_quantization(release.folder / QUANTIZATION_FILE)
    form, record = next(iter(records.items()))
    return form, record


Windows = SyntheticWindows | WindowDataset


def _samples(recipe: QatRecipe, student: Student, run: TrainingRun) -> tuple[Windows, Windows]:
    """Return windows of all frames that a map depends on, at the student's size, and other such windows."""
    prepare, data = student.settings.preprocessing(), recipe.data
    shape = WindowShape(prepare.height, prepare.width, forms_of(student).window, 0, preprocessing=prepare)
    first, second = recipe.seed * 2, recipe.seed * 2 + 1
    if data.root:
        # If lags are in seconds, a window counts frames at the nominal rate; otherwise it is consecutive.
        has_lag_s = prepare.alignment is not None or any(s.lag_s for s in forms_of(student).states)
        spaced = replace(shape, every=round(FPS / NOMINAL_FPS) if has_lag_s else 1)
        dataset = open_dataset(data.kind, data.root, data.split)
        windows = WindowDataset(dataset, spaced, first)
        _ = windows[0]  # raises now if nothing can be read
        return windows, WindowDataset(dataset, spaced, second)
    scenes = recipe.world.count_scenes(recipe.samples) + SCENES_PER_SHARD  # one shard for the other windows
    world = recipe.world.model_copy(update={"scenes": scenes})
    others, pool = open_scenes(recipe, world, run).split(1)
    return (
        SyntheticWindows(pool, recipe.world, shape, first),
        SyntheticWindows(others, recipe.world, shape, second),
    )


def _batches(samples: Windows, batch: int) -> list[Tensor]:
    windows = [samples[index]["clip"] for index in range(min(EVALUATION_BATCHES * batch, len(samples)))]
    return [default_collate(windows[start : start + batch]) for start in range(0, len(windows), batch)]


@torch.no_grad()
def _mean_kld(stage: SelfDistillation, windows: list[Tensor]) -> float:
    """Return the mean KLD of int8 maps to fp32 maps."""
    pairs = [pair for window in windows for pair in zip(*stage.maps(window), strict=True)]
    return float(np.mean([kld(quantized[0].numpy(), target[0].numpy()) for quantized, target in pairs]))


def _digest(student: Student, record: QuantizationRecord) -> str:
    digest = hashlib.sha256(json.dumps(asdict(record), sort_keys=True).encode())
    for name, value in student.network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
