"""Opens predictors by name: a release, a teacher, a folder of saved maps or a student."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.inference.saliency_model import SaliencyModel
from edge.release.manifest import RELEASE_MANIFEST, SHIPPED_RELEASES
from trainer.datasets.clips import LabelledFrame, read_image
from trainer.inference.predictor import DEFAULT_FPS, LabelledMap, Predictor
from trainer.inference.torch_predictors import (
    FINISHED_WEIGHTS,
    TEACHER_KINDS,
    TEACHERS_FOLDER,
    StudentPredictor,
    TeacherPredictor,
)
from trainer.models.student import SHIPPED_STUDENTS


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
            if len(waiting) > model.delay_frames:
                oldest = waiting.popleft()
                if oldest.index % every == 0:
                    yield oldest, saliency
        while waiting:  # the last frame stands in for the frames that would follow
            saliency = model.infer(model.prepare(frame.image))
            oldest = waiting.popleft()
            if oldest.index % every == 0:
                yield oldest, saliency


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
        raise InputError(f"{name} holds two teachers; expected one of them: name {teachers}")
    if path.is_dir():
        return FolderPredictor(path)
    if path.is_file() or (SHIPPED_STUDENTS / f"{name}.safetensors").is_file():
        return StudentPredictor(name, fps)
    shipped = {p.name for p in SHIPPED_RELEASES.glob("*")} | {
        p.stem for p in SHIPPED_STUDENTS.glob("*.safetensors")
    }
    raise InputError(
        f"no model and no maps at {name!r}; expected a .safetensors student, a release's folder, "
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
        SHIPPED_STUDENTS / f"{name}.safetensors",
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
