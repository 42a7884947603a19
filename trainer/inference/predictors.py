"""Saliency maps for a clip's frames: from a student, a release, or a folder of maps made before."""

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
from trainer.models.mobilenet3d import CLIP
from trainer.models.student import Pair

if TYPE_CHECKING:
    from torch import Tensor

Map = NDArray[np.float32]
FPS = 30.0
"""Of clips whose rate nobody told."""
BATCH = 16
"""Frames computed together."""
TEACHERS, DONE, RECIPE = "teachers", "done.pt", "recipe.json"
"""Where a run keeps its finished teachers, and how it was meant to be."""
KINDS = ("spatial", "temporal")
"""Of teacher."""


class Predictor(Protocol):
    """Where maps come from. `description` says what it is and what computes it."""

    description: str

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames of the named clip, in order, with their maps (h, w), non-negative.

        Of all frames, which are given, those are yielded whose index is a multiple of `every`.
        """


class ReleasePredictor:
    """A release's streaming graph, by ONNX Runtime.

    Raises:
        InputError: as `SaliencyModel` does.
    """

    def __init__(self, name: str, precision: str | None, fps: float = FPS) -> None:
        self._model, self._fps = SaliencyModel(name, precision), fps
        model = self._model
        self.description = f"release {model.release.name} {model.precision}, {model.engine}"

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps from a fresh start; at the end the last frame is its own successor."""
        model = self._model
        model.reset(self._fps)
        waiting: deque[LabelledFrame] = deque()
        for frame in frames:
            waiting.append(frame)
            saliency = model.infer(model.prepare(frame.image))
            if len(waiting) > model.release.delay_frames:
                this = waiting.popleft()
                if this.index % every == 0:
                    yield this, saliency
        while waiting:
            saliency = model.infer(model.prepare(frame.image))
            this = waiting.popleft()
            if this.index % every == 0:
                yield this, saliency


class PairPredictor:
    """Maps of frames beside their neighbours by PyTorch, in batches, on the GPU if there is one.

    `network` takes frames and neighbours (N, 3, H, W) and gives saliency maps (N, 1, h, w). Where a
    clip ends, a frame is its own neighbour. `lag`: how many frames back "previous" reaches; `beside`: an
    earlier frame to what is shown beside a later one.
    """

    def __init__(
        self,
        description: str,
        prepare: Preprocessing,
        pair: Pair,
        network: Callable[[Tensor, Tensor], Tensor],
        lag: int,
        beside: Callable[[Image, Image], Image],
    ) -> None:
        self.description, self._beside = description, beside
        self._prepare, self._pair, self._network, self._lag = prepare, pair, network, lag

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps, up to `BATCH` computed together."""
        batch: list[tuple[LabelledFrame, Map, Map]] = []
        for paired in self._paired(frames, every):
            batch.append(paired)
            if len(batch) == BATCH:
                yield from self._computed(batch)
                batch = []
        if batch:
            yield from self._computed(batch)

    def _paired(
        self, frames: Iterable[LabelledFrame], every: int
    ) -> Iterator[tuple[LabelledFrame, Map, Map]]:
        past: deque[tuple[LabelledFrame, Image]] = deque(maxlen=self._lag)
        prepare = self._prepare
        for frame in frames:
            now = prepare.resize(frame.image)
            before, then = past[0] if past else (frame, now)
            if self._pair == "previous" and frame.index % every == 0:
                yield frame, prepare(now), prepare(self._beside(then, now))
            elif self._pair == "next" and past and before.index % every == 0:
                yield before, prepare(then), prepare(now)
            past.append((frame, now))
        if self._pair == "next" and past and past[0][0].index % every == 0:
            yield past[0][0], prepare(past[0][1]), prepare(past[0][1])

    def _computed(
        self, batch: Sequence[tuple[LabelledFrame, Map, Map]]
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        import torch

        labelled, frames, others = zip(*batch, strict=True)
        with torch.inference_mode():
            pair = (torch.from_numpy(np.concatenate(each)).to(device()) for each in (frames, others))
            maps = self._network(*pair)[:, 0].float().cpu().numpy()
        yield from zip(labelled, maps, strict=True)


class StudentPredictor:
    """A student of any kind by PyTorch.

    Raises:
        InputError: as `load_student` does.
    """

    def __init__(self, name: str, fps: float = FPS) -> None:
        student = students.load_student(name)
        by: dict[str, Callable[[], Predictor]] = {
            "skd": lambda: _pairs(student, fps),
            "tinyhd": lambda: _Clips(student),
            "stream": lambda: _Stream(student, fps),
        }
        self._by = by[student.settings.kind]()
        self.description = self._by.description

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps."""
        return self._by.maps(clip, frames, every)


def _described(student: students.Student) -> str:
    import torch

    return f"student {student.name}, PyTorch {torch.__version__}"


def _pairs(student: students.Student, fps: float) -> PairPredictor:
    settings, network = students.as_skd(student)
    network.to(device())
    return PairPredictor(
        _described(student),
        settings.preprocessing(),
        settings.pair,
        lambda frame, other: students.saliency(network(frame, other), settings.head),
        max(1, round(settings.lag_s * fps)),
        settings.preprocessing().beside,
    )


class TeacherPredictor(PairPredictor):
    """The spatial or the temporal teacher that a run of `aerogaze train` finished: RUN/teachers.

    Raises:
        InputError: the run has no finished teachers, or they cannot be read.
    """

    def __init__(self, folder: Path, which: str, fps: float = FPS) -> None:
        import torch
        from pydantic import ValidationError

        from trainer.models.teacher import SpatialTeacher, TemporalTeacher
        from trainer.recipes.loader import SkdRecipe

        try:
            recipe = SkdRecipe.model_validate_json((folder.parent / RECIPE).read_text())
            weights = torch.load(folder / DONE, map_location="cpu", weights_only=True)
            teacher = SpatialTeacher() if which == "spatial" else TemporalTeacher()
            prefix = f"{which}."
            mine = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            teacher.load_state_dict(mine)
        except (OSError, ValidationError, RuntimeError, pickle.UnpicklingError, AttributeError) as error:
            raise InputError(
                f"{folder} holds no teachers that can be read ({str(error).splitlines()[0]}); expected "
                f"the folder {TEACHERS} of a run of aerogaze train whose teachers are finished"
            ) from None
        teacher.eval().to(device())
        head = recipe.settings().head
        super().__init__(
            f"{which} teacher of {recipe.name}, PyTorch {torch.__version__}",
            Preprocessing(*recipe.large),
            recipe.student.pair,
            lambda frame, other: students.saliency(teacher(frame, other), head).clamp(max=1),
            max(1, round(recipe.student.lag_s * fps)),
            recipe.settings().preprocessing().beside,
        )


class _Clips:
    """A TinyHD student: S slides its clip by a frame, M takes block after block.

    Before a video's first frame there is only that frame. M's last block ends at the last frame.
    """

    def __init__(self, student: students.Student) -> None:
        self._settings, self._network = students.as_tinyhd(student)
        self._network.to(device())
        self.description = _described(student)

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps (height, width)."""
        made = self._all(frames)
        yield from ((frame, saliency) for frame, saliency in made if frame.index % every == 0)

    def _all(self, frames: Iterable[LabelledFrame]) -> Iterator[tuple[LabelledFrame, Map]]:
        prepare, steps = self._settings.preprocessing(), self._network.maps
        seen: deque[Map] = deque(maxlen=CLIP)
        waiting: list[LabelledFrame] = []
        for frame in frames:
            tensor = prepare(frame.image)[0]
            seen.extend([tensor] * (1 if seen else CLIP))
            waiting.append(frame)
            if len(waiting) == steps:
                yield from zip(waiting, self._maps(seen), strict=True)
                waiting = []
        if waiting:
            yield from zip(waiting, self._maps(seen)[-len(waiting) :], strict=True)

    def _maps(self, seen: Iterable[Map]) -> Map:
        import torch

        with torch.inference_mode():
            clip = torch.from_numpy(np.stack(list(seen), axis=1))[None].to(device())
            saliency: Map = self._network(clip).fused[0].float().cpu().numpy()
        return saliency


class _Stream:
    """A streaming student, a frame at a time."""

    def __init__(self, student: students.Student, fps: float) -> None:
        from trainer.models.forms import forms_of

        forms = forms_of(student)
        self._step, self._states, self._fps = forms.modules["stream"].to(device()), forms.states, fps
        self._preroll = forms.preroll
        self._prepare = student.settings.preprocessing()
        self.description = _described(student)

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps (height, width) from a fresh start."""
        import torch

        starts = {s.input: torch.full(s.shape, s.start, device=device()) for s in self._states}
        carried = RecurrentState(self._states, starts)
        carried.reset(self._fps)
        rounds = 1 + self._preroll
        for frame in frames:
            tensor = torch.from_numpy(self._prepare(frame.image)).to(device())
            for _ in range(rounds):
                with torch.inference_mode():
                    saliency, *given = self._step(tensor, *carried.feed().values())
                carried.keep(dict(zip(carried.outputs, given, strict=True)))
            rounds = 1
            if frame.index % every == 0:
                yield frame, saliency[0, 0].float().cpu().numpy()


class FolderPredictor:
    """Maps laid out as `<clip>/000000.png`, 8 or 16 bit, as `aerogaze run --maps` writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = f"maps in {folder}"

    def maps(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps.

        Raises:
            InputError: a frame's map is missing or no image.
        """
        for frame in (frame for frame in frames if frame.index % every == 0):
            path = self._folder / clip / f"{frame.index:06d}.png"
            saliency = read_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
            if saliency is None:
                what = "cannot be read as an image" if path.is_file() else "is missing"
                raise InputError(
                    f"{path} {what}; expected a map for each frame of {clip}, "
                    f"as aerogaze run --maps {path.parent} writes them"
                )
            yield frame, saliency.astype(np.float32)


def device() -> str:
    """Return where networks compute."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def open_predictor(name: str, precision: str | None = None, fps: float = FPS) -> Predictor:
    """Open what makes maps.

    In this order: a release (a folder or a shipped one's name), a teacher (RUN/teachers/spatial,
    RUN/teachers/temporal), a folder of maps, a student. `precision` is a release's; None takes the
    fastest that this machine computes natively. `fps` is the clips' frame rate: students that look back
    do so by seconds.

    Raises:
        InputError: none of these, or a precision for what is no release.
    """
    path = Path(name)
    if _release(name) is not None:
        return ReleasePredictor(name, precision, fps)
    if precision is not None:
        raise InputError(f"{name} is no release; only a release has precisions: leave --precision out")
    if path.name in KINDS and (path.parent / DONE).is_file():
        return TeacherPredictor(path.parent, path.name, fps)
    if (path / DONE).is_file():
        raise InputError(f"{name} holds two teachers; name one: {', '.join(str(path / k) for k in KINDS)}")
    if path.is_dir():
        return FolderPredictor(path)
    if path.is_file() or (students.SHIPPED / f"{name}.safetensors").is_file():
        return StudentPredictor(name, fps)
    known = {p.name for p in SHIPPED_RELEASES.glob("*")} | {
        p.stem for p in students.SHIPPED.glob("*.safetensors")
    }
    raise InputError(
        f"nothing to evaluate at {name!r}; expected a .safetensors student, a release's folder, "
        f"a run's {TEACHERS}, a folder of maps, or a shipped name: {', '.join(sorted(known))}"
    )


def open_predictors(name: str, precision: str | None = None, fps: float = FPS) -> dict[str, Predictor]:
    """Open all that makes maps at a name: teachers by their kinds, else "saliency" alone.

    Raises:
        InputError: as `open_predictor` does.
    """
    path = Path(name)
    if precision is None and (path / DONE).is_file():
        return {kind: open_predictor(str(path / kind), None, fps) for kind in KINDS}
    predictor = open_predictor(name, precision, fps)
    return {path.name if isinstance(predictor, TeacherPredictor) else "saliency": predictor}


def fingerprint(name: str) -> str:
    """Return the SHA-256 of the file that says which model is at a name; of a folder of maps, its path."""
    path = Path(name)
    for file in (
        _release(name),
        path / DONE,
        path.parent / DONE,
        path,
        students.SHIPPED / f"{name}.safetensors",
    ):
        if file is not None and file.is_file():
            return sha256(file)
    return str(path.resolve())


def _release(name: str) -> Path | None:
    """Return a release's manifest, which has the hashes of its files; None if the name is none's."""
    path, shipped = (
        Path(name) / RELEASE_MANIFEST,
        SHIPPED_RELEASES / name / RELEASE_MANIFEST,
    )
    if path.is_file():
        return path
    return shipped if not Path(name).exists() and shipped.is_file() else None
