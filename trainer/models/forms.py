"""Forms of a student: as a stream with states, on pairs of frames, and on windows of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.release.release import Form, StateSpec
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
    """Network of a student in the forms in which it can be exported.

    Attributes:
        modules: Module of each form. "stream" takes a frame (1, 3, H, W), if aligned also an earlier one,
            and the states, and returns the saliency map (1, 1, H, W) and the new states. "pair" takes a frame
            and its neighbour, and returns the map. "clip" takes `window` frames (1, 3, T, H, W) and returns
            (1, maps, H, W): the map of the last frame, or one per frame.
        states: States of the stream form.
        window: Consecutive frames that a map depends on. The map belongs to the last of them, or, if the
            student has a delay, to a frame that many frames before the last.
        preroll: How often a stream gets its first frame before its map counts.
        window_map: Function from a window by `Preprocessing.stack_window` to the map of its frame, as in
            training. A shorter window is the start of a clip.
        maps: Maps that the clip form returns.
        aligned: Whether the stream form takes a second frame: the one of `lag_s` before, aligned with the
            current frame.
    """

    modules: Mapping[Form, nn.Module]
    states: tuple[StateSpec, ...]
    window: int
    preroll: int
    window_map: Callable[[Tensor], Tensor]
    maps: int = 1
    aligned: bool = False

    def inputs(self, form: Form) -> tuple[str, ...]:
        """Return the names of the frames that a form takes as inputs."""
        return ("frame", "other") if form == "pair" or (form == "stream" and self.aligned) else ("frame",)


def forms_of(student: Student) -> StudentForms:
    """Return the forms of a student.

    Raises:
        InputError: Students of this kind have no forms.
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
    """Pair form of SKD: frame and other frame (N, 3, R, R) to the saliency map (N, 1, R, R)."""

    def __init__(self, network: SpatiotemporalNetwork, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the saliency map of `frame`."""
        return raw_to_saliency(self.network(frame, other), self.head)


class SkdStream(nn.Module):
    """Stream form of SKD: frame (1, 3, R, R) and earlier trunk features to saliency map and trunk features.

    The trunk runs once per frame. If students are paired with the previous frame, the map belongs to the
    current frame. If they are paired with the next frame, it belongs to the frame before, a delay of one.

    Args:
        network: Network of the student.
        head: Meaning of the raw map.
        ahead: Whether the student is paired with the next frame.
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
    """Stream form of the streaming student: frame (1, 3, H, W) and cached features to map and features.

    If aligned, the earlier frame comes between the two.
    """

    def __init__(self, network: StreamingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the saliency map and the features that each memory caches of the frame."""
        return self.network.step(frame, *inputs)


class TinyHDClip(nn.Module):
    """Clip form of TinyHD: clip (1, 3, 16, H, W) to its fused saliency maps (1, maps, H, W)."""

    def __init__(self, network: TinyHD) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        """Return the map of the last frame (variant S) or of each frame (variant M)."""
        maps: Tensor = self.network(clip).fused
        return maps


def _tinyhd(network: TinyHD) -> StudentForms:
    clip = TinyHDClip(network)

    def window_map(window: Tensor) -> Tensor:
        before = window[:, :, :1].expand(-1, -1, CLIP_FRAMES - window.shape[2], -1, -1)
        maps: Tensor = clip(torch.cat([before, window], dim=2))[:, :1]
        return maps

    return StudentForms({"clip": clip}, (), CLIP_FRAMES, 0, window_map, network.maps)


def _skd(settings: SkdSettings, network: SpatiotemporalNetwork) -> StudentForms:
    pair = SkdPair(network, settings.head)
    side, ahead = settings.resolution // 4, settings.delay_frames > 0
    state = StateSpec("features", "features_out", (1, FEATURES, side, side), 0.0, settings.lag_s)
    lag = state.lag_frames(NOMINAL_FPS)

    def aligned_map(window: Tensor) -> Tensor:
        maps: Tensor = pair(*torch.split(window[:, :, -1], 3, dim=1))
        return maps

    def window_map(window: Tensor) -> Tensor:
        before, last = window[:, :, -min(1 + lag, window.shape[2])], window[:, :, -1]
        maps: Tensor = pair(before, last) if ahead else pair(last, before)
        return maps

    if settings.align:  # alignment differs for each new frame, so earlier features cannot be reused
        return StudentForms({"stream": pair, "pair": pair}, (), 1 + lag, 0, aligned_map, aligned=True)
    return StudentForms(
        modules={"stream": SkdStream(network, settings.head, ahead), "pair": pair},
        states=(state,),
        window=1 + lag,
        preroll=1,
        window_map=window_map,
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

    def window_map(window: Tensor) -> Tensor:
        maps: Tensor = network(window).fused[:, -1:]
        return maps

    step, lag = StreamingStep(network), settings.preprocessing().lag_frames(NOMINAL_FPS)
    window = max(WINDOW, 1 + lag)  # the aligned frame may be older than all memories
    return StudentForms({"stream": step}, states, window, 1, window_map, aligned=settings.align)
