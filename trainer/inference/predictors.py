"""Predictors: sources of saliency maps for the frames of a clip.

A predictor wraps a student or a teacher in PyTorch, a release in ONNX Runtime, or a folder of saved maps.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.core.frames import Image
from edge.inference.interface.recurrent_state import RecurrentState
from edge.inference.saliency_model import SaliencyModel
from edge.preprocessing.transform import Preprocessing
from edge.release.manifest import RELEASE_MANIFEST, SHIPPED_RELEASES
from trainer.datasets.clips import LabelledFrame, read_image
from trainer.models import student as students
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.student import Pair

if TYPE_CHECKING:
    from torch import Tensor

Map = NDArray[np.float32]
DEFAULT_FPS = 30.0
"""Frame rate of clips whose rate is unknown."""
BATCH_SIZE = 16
"""Frames computed together."""
TEACHERS_FOLDER, FINISHED_WEIGHTS, RECIPE_FILE = "teachers", "done.pt", "recipe.json"
"""Names in the folder of a training run: its finished teachers, their weights, the recipe."""
TEACHER_KINDS = ("spatial", "temporal")
LabelledMap = tuple[LabelledFrame, Map]


class Predictor(Protocol):
    """Source of saliency maps. `description` names the model and what computes it."""

    description: str

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames of a clip with their maps.

        Args:
            clip: Name of the clip.
            frames: All frames of the clip, in order.
            every: Yield only frames whose index is a multiple of this.

        Yields:
            A frame and its map (h, w), non-negative.
        """


class ReleasePredictor:
    """Predictor that runs the streaming graph of a release in ONNX Runtime.

    Raises:
        InputError: As `SaliencyModel` does.
    """

    def __init__(self, name: str, precision: str | None, fps: float = DEFAULT_FPS) -> None:
        self._model, self._fps = SaliencyModel(name, precision), fps
        model = self._model
        self.description = f"release {model.release.name} {model.precision}, {model.engine}"

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps; each clip starts from the initial state.

        A model with delay is fed the last frame again until all maps are out.
        """
        model = self._model
        model.reset(self._fps)
        waiting: deque[LabelledFrame] = deque()
        for frame in frames:
            waiting.append(frame)
            saliency = model.infer(model.prepare(frame.image))
            if len(waiting) > model.release.delay_frames:
                oldest = waiting.popleft()
                if oldest.index % every == 0:
                    yield oldest, saliency
        while waiting:
            saliency = model.infer(model.prepare(frame.image))
            oldest = waiting.popleft()
            if oldest.index % every == 0:
                yield oldest, saliency


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
            earlier, earlier_image = past[0] if past else (frame, image)
            if self._pair == "previous" and frame.index % every == 0:
                yield frame, prepare(image), prepare(self._align(earlier_image, image))
            elif self._pair == "next" and past and earlier.index % every == 0:
                yield earlier, prepare(earlier_image), prepare(image)
            past.append((frame, image))
        if self._pair == "next" and past and past[0][0].index % every == 0:
            yield past[0][0], prepare(past[0][1]), prepare(past[0][1])

    def _compute(self, batch: Sequence[tuple[LabelledFrame, Map, Map]]) -> Iterator[LabelledMap]:
        import torch

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
        student = students.load_student(name)
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


def _describe(student: students.Student) -> str:
    import torch

    return f"student {student.name}, PyTorch {torch.__version__}"


def _skd_predictor(student: students.Student, fps: float) -> PairPredictor:
    settings, network = students.as_skd(student)
    network.to(device())
    return PairPredictor(
        description=_describe(student),
        prepare=settings.preprocessing(),
        pair=settings.pair,
        network=lambda frame, neighbour: students.raw_to_saliency(network(frame, neighbour), settings.head),
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
        import torch
        from pydantic import ValidationError

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
        except (OSError, ValidationError, RuntimeError, pickle.UnpicklingError, AttributeError) as error:
            raise InputError(
                f"{folder} holds no teachers that can be read ({str(error).splitlines()[0]}); expected "
                f"the folder {TEACHERS_FOLDER} of a run of aerogaze train whose teachers are finished"
            ) from None
        teacher.eval().to(device())
        head = recipe.settings().head
        super().__init__(
            description=f"{kind} teacher of {recipe.name}, PyTorch {torch.__version__}",
            prepare=Preprocessing(*recipe.teacher_size),
            pair=recipe.student.pair,
            network=lambda frame, other: students.raw_to_saliency(teacher(frame, other), head).clamp(max=1),
            lag=max(1, round(recipe.student.lag_s * fps)),
            align=recipe.settings().preprocessing().align,
        )


class _ClipPredictor:
    """Predictor that runs a TinyHD student: S slides its clip by one frame, M takes block after block.

    Before the first frame of a video, the clip is filled with that frame. The last block of M ends at the
    last frame.
    """

    def __init__(self, student: students.Student) -> None:
        self._settings, self._network = students.as_tinyhd(student)
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
            window.extend([tensor] * (1 if window else CLIP_FRAMES))
            waiting.append(frame)
            if len(waiting) == maps_per_clip:
                yield from zip(waiting, self._compute(window), strict=True)
                waiting = []
        if waiting:
            yield from zip(waiting, self._compute(window)[-len(waiting) :], strict=True)

    def _compute(self, window: Iterable[Map]) -> Map:
        import torch

        with torch.inference_mode():
            clip = torch.from_numpy(np.stack(list(window), axis=1))[None].to(device())
            saliency: Map = self._network(clip).fused[0].float().cpu().numpy()
        return saliency


class _StreamPredictor:
    """Predictor that runs a streaming student, one frame at a time."""

    def __init__(self, student: students.Student, fps: float) -> None:
        from trainer.models.forms import forms_of

        forms = forms_of(student)
        self._step, self._states, self._fps = forms.modules["stream"].to(device()), forms.states, fps
        self._preroll = forms.preroll
        self._prepare = student.settings.preprocessing()
        self.description = _describe(student)

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps (height, width); each clip starts from the initial state."""
        import torch

        starts = {s.input: torch.full(s.shape, s.start, device=device()) for s in self._states}
        recurrent = RecurrentState(self._states, starts)
        recurrent.reset(self._fps)
        repeats = 1 + self._preroll
        for frame in frames:
            tensor = torch.from_numpy(self._prepare(frame.image)).to(device())
            for _ in range(repeats):
                with torch.inference_mode():
                    saliency, *states = self._step(tensor, *recurrent.feed().values())
                recurrent.update(dict(zip(recurrent.outputs, states, strict=True)))
            repeats = 1
            if frame.index % every == 0:
                yield frame, saliency[0, 0].float().cpu().numpy()


class FolderPredictor:
    """Predictor that reads maps as `aerogaze run --maps` writes them: `<clip>/000000.png`, 8 or 16 bit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = f"maps in {folder}"

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and maps.

        Raises:
            InputError: The map of a frame is missing or is not an image.
        """
        for frame in (frame for frame in frames if frame.index % every == 0):
            path = self._folder / clip / f"{frame.index:06d}.png"
            saliency = read_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
            if saliency is None:
                problem = "cannot be read as an image" if path.is_file() else "is missing"
                raise InputError(
                    f"{path} {problem}; expected a map for each frame of {clip}: "
                    f"write them with aerogaze run --maps {path.parent}"
                )
            yield frame, saliency.astype(np.float32)


def device() -> str:
    """Return the PyTorch device that networks run on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def open_predictor(name: str, precision: str | None = None, fps: float = DEFAULT_FPS) -> Predictor:
    """Open a predictor by name.

    The first that fits is opened: a release (a folder, or the name of a shipped one), a teacher
    (RUN/teachers/spatial or RUN/teachers/temporal), a folder of maps, a student.

    Args:
        name: Path or shipped name.
        precision: Precision of a release; None takes the fastest that this machine computes natively.
        fps: Frame rate of the clips, for students that look back by seconds.

    Raises:
        InputError: None of these has the name, or `precision` is given for anything but a release.
    """
    path = Path(name)
    if _release_manifest(name) is not None:
        return ReleasePredictor(name, precision, fps)
    if precision is not None:
        raise InputError(f"{name} is not a release; only a release has precisions: leave --precision out")
    if path.name in TEACHER_KINDS and (path.parent / FINISHED_WEIGHTS).is_file():
        return TeacherPredictor(path.parent, path.name, fps)
    if (path / FINISHED_WEIGHTS).is_file():
        teachers = ", ".join(str(path / kind) for kind in TEACHER_KINDS)
        raise InputError(f"{name} holds two teachers; expected one: name {teachers}")
    if path.is_dir():
        return FolderPredictor(path)
    if path.is_file() or (students.SHIPPED / f"{name}.safetensors").is_file():
        return StudentPredictor(name, fps)
    shipped = {p.name for p in SHIPPED_RELEASES.glob("*")} | {
        p.stem for p in students.SHIPPED.glob("*.safetensors")
    }
    raise InputError(
        f"nothing to evaluate at {name!r}; expected a .safetensors student, a release's folder, "
        f"a run's {TEACHERS_FOLDER}, a folder of maps, or a shipped name: {', '.join(sorted(shipped))}"
    )


def open_predictors(
    name: str, precision: str | None = None, fps: float = DEFAULT_FPS
) -> dict[str, Predictor]:
    """Open all predictors of a name: teachers by their kinds, everything else as "saliency".

    Raises:
        InputError: As `open_predictor` does.
    """
    path = Path(name)
    if precision is None and (path / FINISHED_WEIGHTS).is_file():
        return {kind: open_predictor(str(path / kind), None, fps) for kind in TEACHER_KINDS}
    predictor = open_predictor(name, precision, fps)
    return {path.name if isinstance(predictor, TeacherPredictor) else "saliency": predictor}


def fingerprint(name: str) -> str:
    """Return the SHA-256 of the file that identifies a model; for a folder of maps, its absolute path."""
    path = Path(name)
    for file in (
        _release_manifest(name),
        path / FINISHED_WEIGHTS,
        path.parent / FINISHED_WEIGHTS,
        path,
        students.SHIPPED / f"{name}.safetensors",
    ):
        if file is not None and file.is_file():
            return sha256(file)
    return str(path.resolve())


def _release_manifest(name: str) -> Path | None:
    """Return the manifest of a release, which has the hashes of its files; None if it is not a release."""
    path, shipped = Path(name) / RELEASE_MANIFEST, SHIPPED_RELEASES / name / RELEASE_MANIFEST
    if path.is_file():
        return path
    return shipped if not Path(name).exists() and shipped.is_file() else None
