"""Saliency maps for a clip's frames: from a student, a release, or a folder of maps made before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge import release as releases
from edge.errors import InputError
from edge.model import SaliencyModel
from trainer.datasets.clips import LabelledFrame, read_image
from trainer.models import student as students

Map = NDArray[np.float32]


class Predictor(Protocol):
    """Where maps come from. `description` says what it is and what computes it."""

    description: str

    def maps(self, clip: str, frames: Iterable[LabelledFrame]) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield each frame of the named clip, in order, with its map (h, w), non-negative."""


class ReleasePredictor:
    """A release's streaming graph, by ONNX Runtime.

    Raises:
        InputError: as `SaliencyModel` does.
    """

    def __init__(self, name: str, precision: str | None) -> None:
        self._model = SaliencyModel(name, precision)
        model = self._model
        self.description = f"release {model.release.name} {model.precision}, {model.engine}"

    def maps(self, clip: str, frames: Iterable[LabelledFrame]) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps from a fresh start; at the end the last frame is its own successor."""
        model = self._model
        model.reset()
        waiting: deque[LabelledFrame] = deque()
        for frame in frames:
            waiting.append(frame)
            saliency = model.infer(model.prepare(frame.image))
            if len(waiting) > model.release.delay_frames:
                yield waiting.popleft(), saliency
        while waiting:
            saliency = model.infer(model.prepare(frame.image))
            yield waiting.popleft(), saliency


class StudentPredictor:
    """A student by PyTorch.

    Raises:
        InputError: as `load_student` does.
    """

    def __init__(self, name: str) -> None:
        import torch

        from trainer.models.forms import forms_of

        student = students.load_student(name)
        self._forms, self._settings = forms_of(student), student.settings
        self.description = f"student {student.name}, PyTorch {torch.__version__}"

    def maps(self, clip: str, frames: Iterable[LabelledFrame]) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps from a fresh start; at the end the last frame is its own successor."""
        import torch

        prepare, step = self._settings.preprocessing(), self._forms.modules["stream"]
        states = [torch.full(state.shape, state.start) for state in self._forms.states]

        def infer(tensor: torch.Tensor) -> Map:
            with torch.inference_mode():
                saliency, *states[:] = step(tensor, *states)
            taken: Map = saliency[0, 0].numpy()
            return taken

        waiting: deque[LabelledFrame] = deque()
        preroll = self._forms.preroll
        for frame in frames:
            tensor = torch.from_numpy(prepare(frame.image))
            for _ in range(preroll):
                infer(tensor)
            preroll = 0
            waiting.append(frame)
            saliency = infer(tensor)
            if len(waiting) > self._settings.delay_frames:
                yield waiting.popleft(), saliency
        while waiting:
            yield waiting.popleft(), infer(tensor)


class FolderPredictor:
    """Maps laid out as `<clip>/000000.png`, 8 or 16 bit, as `aerogaze run --maps` writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.description = f"maps in {folder}"

    def maps(self, clip: str, frames: Iterable[LabelledFrame]) -> Iterator[tuple[LabelledFrame, Map]]:
        """Yield frames and maps.

        Raises:
            InputError: a frame's map is missing or no image.
        """
        for frame in frames:
            path = self._folder / clip / f"{frame.index:06d}.png"
            saliency = read_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
            if saliency is None:
                what = "cannot be read as an image" if path.is_file() else "is missing"
                raise InputError(
                    f"{path} {what}; expected a map for each frame of {clip}, "
                    f"as aerogaze run --maps {path.parent} writes them"
                )
            yield frame, saliency.astype(np.float32)


def open_predictor(name: str, precision: str | None = None) -> Predictor:
    """Open a release (a folder or a shipped one's name), a student or a folder of maps, in this order.

    `precision` is a release's; None takes the fastest that this machine computes natively.

    Raises:
        InputError: none of these, or a precision for what is no release.
    """
    path = Path(name)
    shipped = releases.SHIPPED / name
    if (path / releases.MANIFEST).is_file() or (
        not path.exists() and (shipped / releases.MANIFEST).is_file()
    ):
        return ReleasePredictor(name, precision)
    if precision is not None:
        raise InputError(f"{name} is no release; only a release has precisions: leave --precision out")
    if path.is_dir():
        return FolderPredictor(path)
    if path.is_file() or (students.SHIPPED / f"{name}.safetensors").is_file():
        return StudentPredictor(name)
    known = {p.name for p in releases.SHIPPED.glob("*")} | {
        p.stem for p in students.SHIPPED.glob("*.safetensors")
    }
    raise InputError(
        f"nothing to evaluate at {name!r}; expected a .safetensors student, a release's folder, "
        f"a folder of maps, or a shipped name: {', '.join(sorted(known))}"
    )
