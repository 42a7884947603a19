"""Engines compared with PyTorch, and the streaming student compared with TinyHD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from export.graphs import onnx_export
from export.graphs.int8_search import CalibrationOptions
from export.release.builder import make_release
from tests.bench.rows import BenchRow, print_note, print_times, time_in_turns
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.streaming import Reduction
from trainer.models.student import SkdSettings, StreamingSettings, Student
from trainer.models.tinyhd import MAPS, TinyHD, Variant

PAPER_BATCH = 256


def export_untrained(
    folder: Path, resolution: int, forms: Sequence[Form] = ("stream",)
) -> tuple[SpatiotemporalNetwork, Path]:
    """Export an untrained student: its speed does not depend on its weights."""
    torch.manual_seed(0)
    network = SpatiotemporalNetwork().train()
    for _ in range(3):
        network(*torch.randn(2, 4, 3, resolution, resolution))
    settings = SkdSettings(resolution, "previous", "log_density")
    student = Student(f"skd-{resolution}", settings, network.eval(), {"data": "none"})
    world = World(1, 128, 72)
    prepare = Preprocessing(resolution, resolution)
    images = np.stack([prepare.resize(world.frame(index).image) for index in range(12)])
    windows = np.stack([images[:-1], images[1:]], axis=1)
    frames = CalibrationFrames(windows, windows, images[:8], "made")
    make_release(student, frames, folder, forms, CalibrationOptions(budget=AccuracyBudget(cc=0.5)))
    return network, folder


def engine_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the speed-up of streaming engines over the pair network in PyTorch: R = 32, batch 1 and 256.

    PyTorch has all cores, the engines have one, as in `aerogaze run`: two are no faster for this network.
    """
    network, release_folder = export_untrained(folder / "skd-32", 32)
    release = load_release(release_folder)
    frame = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    feed = {"frame": frame}
    single, batch = torch.from_numpy(frame), torch.from_numpy(np.repeat(frame, PAPER_BATCH, axis=0))
    torch.set_num_threads(detect_machine().cores)
    runners = {name: open_runner(release, name, threads=DEFAULT_THREADS) for name in ("fp32", "int8")}

    def run_eager() -> object:
        with torch.inference_mode():
            return network(single, single)

    def run_eager_batch() -> object:
        with torch.inference_mode():
            return network(batch, batch)

    def run_int8_batch() -> None:
        for _ in range(PAPER_BATCH):
            runners["int8"].infer(feed)

    engines = {name: partial(runner.infer, feed) for name, runner in runners.items()}
    seconds = time_in_turns({"eager": run_eager, **engines}, repeats=50, rounds=20)
    print_times("R=32, per frame", seconds)
    speedup = seconds["eager"] / seconds["int8"]
    yield BenchRow("R=32 streaming int8 over PyTorch eager pair", speedup, "x", 10)
    over_fp32 = seconds["fp32"] / seconds["int8"]
    yield BenchRow("R=32 streaming int8 over its own fp32", over_fp32, "x", 1.4)
    fps = 1 / seconds["int8"]
    print_note(
        f"R=32 streaming int8: {fps:.0f} frames/s; the paper's CPU at batch 256: {PAPER_FPS['CPU']:,.1f}"
    )
    # Both calls compute the same number of frames.
    seconds = time_in_turns({"int8": run_int8_batch, "eager": run_eager_batch}, repeats=1, rounds=12)
    label = f"R=32 streaming int8 over PyTorch eager pair at batch {PAPER_BATCH}"
    yield BenchRow(label, seconds["eager"] / seconds["int8"], "x", 4.5)


class FusedClip(torch.nn.Module):
    """TinyHD from a clip to its fused maps, as one graph."""

    def __init__(self, network: TinyHD) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Return the fused maps (1, steps, H, W)."""
        fused: torch.Tensor = self.network(clip).fused
        return fused


def streaming_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the speed-up of the streaming student over TinyHD-S and -M.

    All run at 192 x 256 and batch 1, in fp32 on ONNX Runtime with two threads. The streaming student has no
    delay, nor has S, which slides by one frame. M computes blocks of 16 frames, so its first map waits for 15
    others.
    """
    size = 192, 256
    reductions: tuple[Reduction, ...] = (1, 4)
    bounds: tuple[tuple[Variant, float, int], ...] = (("S", 10, 0), ("M", 4, CLIP_FRAMES - 1))
    for rc in reductions:
        torch.manual_seed(0)
        settings = StreamingSettings(*size, rc)
        student = Student("stream", settings, settings.build().eval(), {})
        graph = folder / f"stream-{rc}.onnx"
        onnx.save(onnx_export.export_onnx(student, "stream", 1), graph)
        signature = GraphSignature(
            {"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, forms_of(student).states
        )
        stream = OnnxRunner(graph, signature, 2)
        clip = torch.rand(1, 3, CLIP_FRAMES, *size) * 2 - 1
        feeds: list[dict[str, Tensor]] = [{"frame": frame.numpy()} for frame in clip.unbind(2)]

        def run_stream(runner: OnnxRunner = stream, feeds: list[dict[str, Tensor]] = feeds) -> None:
            for feed in feeds:  # as many maps per call as M, so that the caches are equally warm
                runner.infer(feed)

        calls: dict[str, Callable[[], object]] = {"stream": run_stream}
        for variant, steps in MAPS.items():
            graph = folder / f"tinyhd-{variant}-{rc}.onnx"
            network = FusedClip(TinyHD(variant, rc)).eval()
            onnx.save(onnx_export.trace_onnx(network, (clip,), ["clip"], ["maps"]), graph)
            signature = GraphSignature({"clip": tuple(clip.shape)}, {"maps": (1, steps, *size)})
            calls[variant] = partial(OnnxRunner(graph, signature, threads=2).infer, {"clip": clip.numpy()})
        seconds = time_in_turns(calls, repeats=2, rounds=8)
        print_times(f"rc {rc}, per call", seconds)
        for variant, bound, delay in bounds:
            ratio = seconds[variant] / MAPS[variant] / (seconds["stream"] / CLIP_FRAMES)
            label = (
                f"rc {rc}, 192x256: maps/s of the streaming student over TinyHD-{variant} "
                f"(delay: 0 frames and {delay})"
            )
            yield BenchRow(label, ratio, "x", bound)
