"""Engines against PyTorch, and the streaming student against TinyHD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.search.accuracy import AccuracyBudget
from edge.cli.run import DEFAULT_THREADS
from edge.core.frames import Tensor
from edge.hardware.host import detect_machine
from edge.inference.interface.runner import GraphSignature
from edge.inference.onnxruntime.runner import OnnxRunner
from edge.inference.runner_factory import open_runner
from edge.preprocessing.transform import Preprocessing
from edge.profiler.report.table import PAPER_FPS
from edge.release.manifest import Form, load_release
from edge.simulation.world import World
from export.graphs import onnx_export as graphs
from export.graphs.int8_search import CalibrationOptions
from export.release.builder import make_release
from tests.bench.rows import Row, turns
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.streaming import Reduction
from trainer.models.student import SkdSettings, StreamingSettings, Student
from trainer.models.tinyhd import MAPS, TinyHD, Variant

BATCH = 256
"""The paper's."""


def small_release(
    folder: Path, resolution: int, forms: Sequence[Form] = ("stream",)
) -> tuple[SpatiotemporalNetwork, Path]:
    """Export an untrained student: speed does not depend on what was learnt."""
    torch.manual_seed(0)
    network = SpatiotemporalNetwork().train()
    for _ in range(3):
        network(*torch.randn(2, 4, 3, resolution, resolution))
    settings = SkdSettings(resolution, "previous", "log_density")
    student = Student(f"skd-{resolution}", settings, network.eval(), {"data": "none"})
    world = World(1, 128, 72)
    frames = np.stack([Preprocessing(resolution, resolution).resize(world.frame(i).image) for i in range(12)])
    windows = np.stack([frames[:-1], frames[1:]], axis=1)
    footage = CalibrationFrames(windows, windows, frames[:8], "made")
    make_release(student, footage, folder, forms, CalibrationOptions(budget=AccuracyBudget(cc=0.5)))
    return network, folder


def engine_rows(folder: Path) -> list[Row]:
    """Streaming engines against PyTorch eager on the pair network: R = 32, batch 1 and 256.

    PyTorch has all cores; the engines one, as in `aerogaze run`: of so small a network two take as long.
    """
    network, place = small_release(folder / "skd-32", 32)
    release, frame = (
        load_release(place),
        np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32),
    )
    pair, many = torch.from_numpy(frame), torch.from_numpy(np.repeat(frame, BATCH, axis=0))
    torch.set_num_threads(detect_machine().cores)
    runners = {p: open_runner(release, p, threads=DEFAULT_THREADS) for p in ("fp32", "int8")}

    def eager() -> object:
        with torch.inference_mode():
            return network(pair, pair)

    def eager_many() -> object:
        with torch.inference_mode():
            return network(many, many)

    def streamed() -> None:
        for _ in range(BATCH):
            runners["int8"].infer(feed)

    feed = {"frame": frame}
    seconds = turns(
        {"eager": eager, **{p: lambda r=r: r.infer(feed) for p, r in runners.items()}},  # type: ignore[misc]
        calls=50,
        rounds=20,
    )
    print({name: f"{value * 1e3:.3f} ms" for name, value in seconds.items()})
    frames = turns({"int8": streamed, "eager": eager_many}, calls=1, rounds=12)  # as many in each
    rate, over = 1 / seconds["int8"], frames["eager"] / frames["int8"]
    print(f"R=32 streaming int8: {rate:.0f} frames/s; the paper's CPU, at batch 256: {PAPER_FPS['CPU']:,.1f}")
    return [
        Row("R=32 streaming int8 over PyTorch eager pair", seconds["eager"] / seconds["int8"], "x", 10, True),
        Row(f"R=32 streaming int8 over PyTorch eager pair at batch {BATCH}", over, "x", 4.5, True),
        Row("R=32 streaming int8 over its own fp32", seconds["fp32"] / seconds["int8"], "x", 1.4, True),
    ]


class ClipForm(torch.nn.Module):
    """TinyHD's clip to its fused maps, in one graph."""

    def __init__(self, network: TinyHD) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Return the fused maps (1, steps, H, W)."""
        fused: torch.Tensor = self.network(clip).fused
        return fused


def streaming_rows(folder: Path) -> list[Row]:
    """The streaming student against TinyHD-S and -M, 192 x 256, batch 1: fp32, ONNX Runtime, two threads.

    Delay in frames: the streaming student and S, slid by a frame, have none. M's blocks of 16 frames
    make the first map wait for 15 others.
    """
    size = 192, 256
    reductions: tuple[Reduction, ...] = (1, 4)
    bounds: tuple[tuple[Variant, float, int], ...] = (("S", 10, 0), ("M", 4, CLIP_FRAMES - 1))
    rows: list[Row] = []
    for rc in reductions:
        torch.manual_seed(0)
        settings = StreamingSettings(*size, rc)
        student = Student("stream", settings, settings.build().eval(), {})
        place, states = folder / f"stream-{rc}.onnx", forms_of(student).states
        onnx.save(graphs.export_onnx(student, "stream", 1), place)
        stream = OnnxRunner(
            place, GraphSignature({"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, states), 2
        )
        clip = torch.rand(1, 3, CLIP_FRAMES, *size) * 2 - 1
        frames = [{"frame": frame.numpy()} for frame in clip.unbind(2)]

        def streamed(runner: OnnxRunner = stream, feeds: list[dict[str, Tensor]] = frames) -> None:
            for feed in feeds:  # as many maps as M's in a call, so that what came before weighs alike
                runner.infer(feed)

        contenders: dict[str, Callable[[], object]] = {"stream": streamed}
        for variant, steps in MAPS.items():
            place = folder / f"tinyhd-{variant}-{rc}.onnx"
            onnx.save(
                graphs.trace_onnx(ClipForm(TinyHD(variant, rc)).eval(), (clip,), ["clip"], ["maps"]), place
            )
            whole = OnnxRunner(
                place, GraphSignature({"clip": tuple(clip.shape)}, {"maps": (1, steps, *size)}), threads=2
            )
            contenders[variant] = partial(whole.infer, {"clip": clip.numpy()})
        seconds = turns(contenders, calls=2, rounds=8)
        print(f"rc {rc}, seconds a call:", seconds)
        for variant, bound, late in bounds:
            ratio = seconds[variant] / MAPS[variant] / (seconds["stream"] / CLIP_FRAMES)
            what = f"rc {rc}, 192x256: streaming maps/s over TinyHD-{variant}'s ({late} frames late, we 0)"
            rows.append(Row(what, ratio, "x", bound, True))
    return rows
