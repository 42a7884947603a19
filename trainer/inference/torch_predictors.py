"""Predictors that run students and teachers in PyTorch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge.core.errors import InputError
from edge.core.frames import Image
from edge.inference.interface.recurrent_state import RecurrentState
from edge.preprocessing.transform import FramePreprocessor, Preprocessing
from trainer.datasets.clips import LabelledFrame
from trainer.inference.predictor import DEFAULT_FPS, LabelledMap, Map, Predictor
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.student import Pair, Student, as_skd, as_tinyhd, load_student, raw_to_saliency

BATCH_SIZE = 16
"""Frames computed together."""
TEACHERS_FOLDER, FINISHED_WEIGHTS, RECIPE_FILE = "teachers", "done.pt", "recipe.json"
"""Names in the folder of a training run: its finished teachers, their weights, the recipe."""
TEACHER_KINDS = ("spatial", "temporal")


class PairPredictor:
    """Predictor that runs a network on pairs of frames in PyTorch, in batches, on the GPU if there is one.

    At the end of a clip that has no neighbour, a frame is paired with itself.
    """

    def __init__(
        self,
        description: str,
        prepare: Preprocessing,
        pair: Pair,
        network: Callable[[Tensor, Tensor], Tensor],
        lag: int,
        align: Callable[[Image, Image], Image],
    ) -> None:
        """Wrap a network.

        Args:
            description: Name of the model and what computes it.
            prepare: Preprocessing of the frames.
            pair: Neighbour that a frame is paired with.
            network: Maps frames and neighbours, each (N, 3, H, W), to saliency maps (N, 1, h, w).
            lag: Distance of the neighbour, in frames.
            align: Called with an earlier and a later frame; returns the earlier one as the network takes it.
        """
        self.description, self._align = description, align
        self._prepare, self._pair, self._network, self._lag = prepare, pair, network, lag

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps, up to `BATCH_SIZE` computed together."""
        batch: list[tuple[LabelledFrame, Map, Map]] = []
        for labelled_pair in self._pairs(frames, every):
            batch.append(labelled_pair)
            if len(batch) == BATCH_SIZE:
                yield from self._compute(batch)
                batch = []
        if batch:
            yield from self._compute(batch)

    def _pairs(self, frames: Iterable[LabelledFrame], every: int) -> Iterator[tuple[LabelledFrame, Map, Map]]:
        """Yield each frame with its own input and its neighbour's."""
        past: deque[tuple[LabelledFrame, Image]] = deque(maxlen=self._lag)
        prepare = self._prepare
        for frame in frames:
            image = prepare.resize(frame.image)
            # The frame `lag` frames back, or the first one of the clip while there are fewer.
            earlier, earlier_image = past[0] if past else (frame, image)
            if self._pair == "previous" and frame.index % every == 0:
                yield frame, prepare(image), prepare(self._align(earlier_image, image))
            elif self._pair == "next" and past and earlier.index % every == 0:
                yield earlier, prepare(earlier_image), prepare(image)
            past.append((frame, image))
        if self._pair == "next" and past and past[0][0].index % every == 0:
            yield past[0][0], prepare(past[0][1]), prepare(past[0][1])

    def _compute(self, batch: Sequence[tuple[LabelledFrame, Map, Map]]) -> Iterator[LabelledMap]:
        labelled, frames, neighbours = zip(*batch, strict=True)
        with torch.inference_mode():
            pair = (torch.from_numpy(np.concatenate(inputs)).to(device()) for inputs in (frames, neighbours))
            maps = self._network(*pair)[:, 0].float().cpu().numpy()
        yield from zip(labelled, maps, strict=True)


class StudentPredictor:
    """Predictor that runs a student of any kind in PyTorch.

    Raises:
        InputError: As `load_student` does.
    """

    def __init__(self, name: str, fps: float = DEFAULT_FPS) -> None:
        student = load_student(name)
        factories: dict[str, Callable[[], Predictor]] = {
            "skd": lambda: _skd_predictor(student, fps),
            "tinyhd": lambda: _ClipPredictor(student),
            "stream": lambda: _StreamPredictor(student, fps),
        }
        self._predictor = factories[student.settings.kind]()
        self.description = self._predictor.description

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps."""
        return self._predictor.predict(clip, frames, every)


def _describe(student: Student) -> str:
    return f"student {student.name}, PyTorch {torch.__version__}"


def _skd_predictor(student: Student, fps: float) -> PairPredictor:
    settings, network = as_skd(student)
    network.to(device())
    return PairPredictor(
        description=_describe(student),
        prepare=settings.preprocessing(),
        pair=settings.pair,
        network=lambda frame, neighbour: raw_to_saliency(network(frame, neighbour), settings.head),
        lag=max(1, round(settings.lag_s * fps)),
        align=settings.preprocessing().align,
    )


class TeacherPredictor(PairPredictor):
    """Predictor that runs the spatial or the temporal teacher of a finished training run.

    Raises:
        InputError: The run has no finished teachers, or they cannot be read.
    """

    def __init__(self, folder: Path, kind: str, fps: float = DEFAULT_FPS) -> None:
        """Load a teacher.

        Args:
            folder: RUN/teachers.
            kind: One of `TEACHER_KINDS`.
            fps: Frame rate of the clips.
        """
        from trainer.models.teacher import SpatialTeacher, TemporalTeacher
        from trainer.recipes.loader import SkdRecipe

        try:
            recipe = SkdRecipe.model_validate_json((folder.parent / RECIPE_FILE).read_text())
            weights = torch.load(folder / FINISHED_WEIGHTS, map_location="cpu", weights_only=True)
            teacher = SpatialTeacher() if kind == "spatial" else TemporalTeacher()
            prefix = f"{kind}."
            teacher.load_state_dict(
                {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            )
        except Exception as error:  # a damaged file raises whatever its bytes lead to
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{folder} holds no teachers that can be read ({reason}); expected "
                f"the folder {TEACHERS_FOLDER} of a run of aerogaze train whose teachers are finished"
            ) from None
        teacher.eval().to(device())
        head = recipe.settings().head
        super().__init__(
            description=f"{kind} teacher of {recipe.name}, PyTorch {torch.__version__}",
            prepare=Preprocessing(*recipe.teacher_size),
            pair=recipe.student.pair,
            network=lambda frame, other: raw_to_saliency(teacher(frame, other), head).clamp(max=1),
            lag=max(1, round(recipe.student.lag_s * fps)),
            align=recipe.settings().preprocessing().align,
        )


class _ClipPredictor:
    """Predictor that runs a TinyHD student: S slides its clip by one frame, M takes block after block.

    Before the first frame of a video, the clip is filled with that frame. The last block of M ends at the
    last frame.
    """

    def __init__(self, student: Student) -> None:
        self._settings, self._network = as_tinyhd(student)
        self._network.to(device())
        self.description = _describe(student)

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps (height, width)."""
        for frame, saliency in self._predict_all(frames):
            if frame.index % every == 0:
                yield frame, saliency

    def _predict_all(self, frames: Iterable[LabelledFrame]) -> Iterator[LabelledMap]:
        prepare, maps_per_clip = self._settings.preprocessing(), self._network.maps
        window: deque[Map] = deque(maxlen=CLIP_FRAMES)
        waiting: list[LabelledFrame] = []
        for frame in frames:
            tensor = prepare(frame.image)[0]
            # The first frame fills the window; each later one replaces the oldest.
            window.extend([tensor] * (1 if window else CLIP_FRAMES))
            waiting.append(frame)
            if len(waiting) == maps_per_clip:
                yield from zip(waiting, self._compute(window), strict=True)
                waiting = []
        if waiting:
            yield from zip(waiting, self._compute(window)[-len(waiting) :], strict=True)

    def _compute(self, window: Iterable[Map]) -> Map:
        with torch.inference_mode():
            clip = torch.from_numpy(np.stack(list(window), axis=1))[None].to(device())
            saliency: Map = self._network(clip).fused[0].float().cpu().numpy()
        return saliency


class _StreamPredictor:
    """Predictor that runs a streaming student, one frame at a time."""

    def __init__(self, student: Student, fps: float) -> None:
        forms = forms_of(student)
        self._step, self._states, self._fps = forms.modules["stream"].to(device()), forms.states, fps
        self._preroll = forms.preroll
        self._prepare = student.settings.preprocessing()
        self.description = _describe(student)

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps (height, width); each clip starts from the initial state."""
        starts = {s.input: torch.full(s.shape, s.start, device=device()) for s in self._states}
        recurrent = RecurrentState(self._states, starts)
        recurrent.reset(self._fps)
        preprocess, repeats = FramePreprocessor(self._prepare, self._fps), 1 + self._preroll
        for frame in frames:
            inputs = torch.split(torch.from_numpy(preprocess(frame.image)).to(device()), 1)
            for _ in range(repeats):
                with torch.inference_mode():
                    saliency, *states = self._step(*inputs, *recurrent.feed().values())
                recurrent.update(dict(zip(recurrent.outputs, states, strict=True)))
            repeats = 1
            if frame.index % every == 0:
                yield frame, saliency[0, 0].float().cpu().numpy()


def device() -> str:
    """Return the PyTorch device that networks run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"
