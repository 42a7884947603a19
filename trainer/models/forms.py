"""How a student is run, whatever its kind: as a stream with states, and on whole windows of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.release.manifest import Form, StateSpec
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.skd import FEATURES, SpatiotemporalNetwork
from trainer.models.streaming import STRIDES, WINDOW, StreamingNetwork
from trainer.models.student import (
    Head,
    SkdSettings,
    StreamingSettings,
    Student,
    TinyHDSettings,
    as_skd,
    raw_to_saliency,
)
from trainer.models.tinyhd import TinyHD


@dataclass(frozen=True)
class StudentForms:
    """A student's network in the forms that it can be exported in.

    `modules`: "stream" takes a frame (1, 3, H, W) and the states, "pair" a frame and its neighbour; both
    give the saliency map (1, 1, H, W), a stream then the new states. "clip" takes `window` frames
    (1, 3, T, H, W) and gives `maps` (1, maps, H, W): the last frame's, or one a frame. `window`: the
    frames, in a row, that a map depends on; the judged one is the last but for those that the student waits
    for. `preroll`: how often a stream is fed its first frame before the map counts. `whole`: a window to
    the judged frame's map as it was trained; a shorter window is a clip's beginning. `aligned`: a stream
    takes no states, but the frame and the one of its lag before, moved onto it.
    """

    modules: Mapping[Form, nn.Module]
    states: tuple[StateSpec, ...]
    window: int
    preroll: int
    whole: Callable[[Tensor], Tensor]
    maps: int = 1
    aligned: bool = False

    def inputs(self, form: Form) -> tuple[str, ...]:
        """Return the names of the frames that a form takes."""
        return ("frame", "other") if form == "pair" or (form == "stream" and self.aligned) else ("frame",)


def forms_of(student: Student) -> StudentForms:
    """Return how a student is run.

    Raises:
        InputError: its kind cannot be run by itself.
    """
    if isinstance(student.settings, SkdSettings):
        return _skd(*as_skd(student))
    if isinstance(student.settings, StreamingSettings) and isinstance(student.network, StreamingNetwork):
        return _streaming(student.settings, student.network)
    if isinstance(student.settings, TinyHDSettings) and isinstance(student.network, TinyHD):
        return _tinyhd(student.network)
    raise InputError(
        f"student {student.name} is of kind {student.settings.kind}; expected skd, stream or tinyhd"
    )


class SkdPair(nn.Module):
    """frame, other (N, 3, R, R) to the frame's saliency (N, 1, R, R)."""

    def __init__(self, network: SpatiotemporalNetwork, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the saliency map of `frame`."""
        return raw_to_saliency(self.network(frame, other), self.head)


class SkdStream(nn.Module):
    """frame (1, 3, R, R) and the trunk's features of the one before, to saliency and features.

    The trunk runs once a frame. Paired with the previous frame, the map is the new frame's; paired
    with the next, it is that of the frame before: a delay of one frame.
    """

    def __init__(self, network: SpatiotemporalNetwork, head: Head, ahead: bool) -> None:
        super().__init__()
        self.network, self.head, self.ahead = network, head, ahead

    def forward(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the saliency map and the trunk's features of `frame`."""
        features = self.network.trunk(frame)
        pair = (before, features) if self.ahead else (features, before)
        return raw_to_saliency(self.network.fuse(*pair), self.head), features


class StreamingStep(nn.Module):
    """frame (1, 3, H, W) and what the memories cached before, to saliency and what they cache of it."""

    def __init__(self, network: StreamingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        """Return the saliency map and what each memory caches of the frame."""
        return self.network.step(frame, *pasts)


class TinyHDClip(nn.Module):
    """clip (1, 3, 16, H, W) to its fused saliency maps (1, maps, H, W)."""

    def __init__(self, network: TinyHD) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Return the maps: S the last frame's, M one for each."""
        maps: Tensor = self.network(clip).fused
        return maps


def _tinyhd(network: TinyHD) -> StudentForms:
    clip = TinyHDClip(network)

    def whole(window: Tensor) -> Tensor:
        before = window[:, :, :1].expand(-1, -1, CLIP_FRAMES - window.shape[2], -1, -1)
        maps: Tensor = clip(torch.cat([before, window], dim=2))[:, :1]
        return maps

    return StudentForms({"clip": clip}, (), CLIP_FRAMES, 0, whole, network.maps)


def _skd(settings: SkdSettings, network: SpatiotemporalNetwork) -> StudentForms:
    pair = SkdPair(network, settings.head)
    side, ahead = settings.resolution // 4, settings.delay_frames > 0
    state = StateSpec("features", "features_out", (1, FEATURES, side, side), 0.0, settings.lag_s)
    lag = state.lag_frames(NOMINAL_FPS)

    def whole(window: Tensor) -> Tensor:
        before, last = window[:, :, -min(1 + lag, window.shape[2])], window[:, :, -1]
        maps: Tensor = pair(before, last) if ahead else pair(last, before)
        return maps

    if settings.align:  # what is moved onto each frame anew cannot be kept as features
        return StudentForms({"stream": pair, "pair": pair}, (), 1 + lag, 0, whole, aligned=True)
    return StudentForms(
        modules={"stream": SkdStream(network, settings.head, ahead), "pair": pair},
        states=(state,),
        window=1 + lag,
        preroll=1,
        whole=whole,
    )


def _streaming(settings: StreamingSettings, network: StreamingNetwork) -> StudentForms:
    states = tuple(
        StateSpec(
            f"{name}_{age}_before",
            name,
            (1, memory.channels, settings.height // stride, settings.width // stride),
            0.0,
            age / NOMINAL_FPS,
        )
        for name, memory, stride in zip(("x0", "x1", "x2"), network.memories, STRIDES, strict=False)
        for age in memory.ages
    )

    def whole(window: Tensor) -> Tensor:
        maps: Tensor = network(window).fused[:, -1:]
        return maps

    return StudentForms({"stream": StreamingStep(network)}, states, WINDOW, 1, whole)
