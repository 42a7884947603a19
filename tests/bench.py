"""`make bench`: the project's speed and memory, as ratios of medians measured in one run.

Contenders take turns, so that a busy machine slows them alike. `out/bench.json` keeps the numbers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from calibration.frames import CalibrationFrames
from edge import pipeline
from edge.frames import Tensor
from edge.machine import this_machine
from edge.metrics import auc_judd
from edge.model import SaliencyModel
from edge.onnx_runner import OnnxRunner
from edge.preprocess import Preprocessing
from edge.release import load
from edge.runner import open_runner
from edge.sinks.jsonl import JsonlSink
from edge.sources import open_source
from edge.world import World
from export import graphs
from export.make import make_release
from tests.bench_pipeline import live_rows
from trainer.models.forms import forms_of
from trainer.models.mobilenet3d import CLIP
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.streaming import Reduction
from trainer.models.student import SkdSettings, StreamingSettings, Student
from trainer.models.tinyhd import MAPS, TinyHD, Variant

OUT = Path("out/bench.json")
Row = tuple[str, float, str, float, bool]
"""What, measured, unit, bound, and whether the bound is a least (else a most)."""


def turns(contenders: dict[str, Callable[[], object]], calls: int, rounds: int) -> dict[str, float]:
    """Return each contender's median seconds a call; they take turns of `calls` calls."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            for _ in range(calls):
                before = time.perf_counter()
                call()
                if turn:  # the first turn warms up
                    times[name].append(time.perf_counter() - before)
    return {name: statistics.median(values) for name, values in times.items()}


def small_release(folder: Path, resolution: int) -> tuple[SpatiotemporalNetwork, Path]:
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
    make_release(student, footage, folder, forms=["stream"])
    return network, folder


def engine_rows(folder: Path) -> list[Row]:
    """Streaming engines against PyTorch eager on the pair network: R = 32, batch 1, all cores."""
    network, place = small_release(folder / "skd-32", 32)
    release, frame = load(place), np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    pair = torch.from_numpy(frame)
    torch.set_num_threads(this_machine().cores)
    runners = {p: open_runner(release, p) for p in ("fp32", "int8")}

    def eager() -> object:
        with torch.inference_mode():
            return network(pair, pair)

    feed = {"frame": frame}
    seconds = turns(
        {"eager": eager, **{p: lambda r=r: r.infer(feed) for p, r in runners.items()}},  # type: ignore[misc]
        calls=50,
        rounds=20,
    )
    print({name: f"{value * 1e3:.3f} ms" for name, value in seconds.items()})
    return [
        ("R=32 streaming int8 over PyTorch eager pair", seconds["eager"] / seconds["int8"], "x", 8, True),
        ("R=32 streaming int8 over its own fp32", seconds["fp32"] / seconds["int8"], "x", 1.4, True),
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
    bounds: tuple[tuple[Variant, float, int], ...] = (("S", 10, 0), ("M", 4, CLIP - 1))
    rows: list[Row] = []
    for rc in reductions:
        torch.manual_seed(0)
        settings = StreamingSettings(*size, rc)
        student = Student("stream", settings, settings.build().eval(), {})
        place, states = folder / f"stream-{rc}.onnx", forms_of(student).states
        onnx.save(graphs.to_onnx(student, "stream", 1), place)
        stream = OnnxRunner(place, {"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, states, 2)
        clip = torch.rand(1, 3, CLIP, *size) * 2 - 1
        frames = [{"frame": frame.numpy()} for frame in clip.unbind(2)]

        def streamed(runner: OnnxRunner = stream, feeds: list[dict[str, Tensor]] = frames) -> None:
            for feed in feeds:  # as many maps as M's in a call, so that what came before weighs alike
                runner.infer(feed)

        contenders: dict[str, Callable[[], object]] = {"stream": streamed}
        for variant, steps in MAPS.items():
            place = folder / f"tinyhd-{variant}-{rc}.onnx"
            onnx.save(graphs.traced(ClipForm(TinyHD(variant, rc)).eval(), (clip,), ["clip"], ["maps"]), place)
            whole = OnnxRunner(place, {"clip": tuple(clip.shape)}, {"maps": (1, steps, *size)}, threads=2)
            contenders[variant] = partial(whole.infer, {"clip": clip.numpy()})
        seconds = turns(contenders, calls=2, rounds=8)
        print(f"rc {rc}, seconds a call:", seconds)
        for variant, bound, late in bounds:
            ratio = seconds[variant] / MAPS[variant] / (seconds["stream"] / CLIP)
            what = f"rc {rc}, 192x256: streaming maps/s over TinyHD-{variant}'s ({late} frames late, we 0)"
            rows.append((what, ratio, "x", bound, True))
    return rows


def pipeline_rows(clip: Path, folder: Path) -> list[Row]:
    """A whole run at R = 64 over a 1280x720 clip, against loops that decode and resize only.

    `bare` is the loop that OpenCV offers: one area resize. `prepared` is ours, which halves first, and
    so is a harder mark: it keeps two cores busy by itself, and inference comes on top.
    """
    model = SaliencyModel(None, None, threads=1)

    def bare() -> None:
        capture = cv2.VideoCapture(str(clip))
        while (image := capture.read()[1]) is not None:
            cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        capture.release()

    def prepared() -> None:
        source = open_source(str(clip))
        for frame in source:
            model.prepare(frame.image)
        source.close()

    def whole() -> None:
        source = open_source(str(clip))
        pipeline.run(source, model, [JsonlSink(folder / "o.jsonl")])
        source.close()

    seconds = turns({"bare": bare, "prepared": prepared, "whole": whole}, calls=1, rounds=9)
    print({name: f"{value:.2f} s" for name, value in seconds.items()})
    what = "1280x720 at R=64: run over decoding and"
    return [
        (f"{what} OpenCV's one-pass resize", seconds["whole"] / seconds["bare"], "x", 1.15, False),
        (f"{what} our own resize", seconds["whole"] / seconds["prepared"], "x", 2, False),
    ]


def process_rows(clip: Path, folder: Path) -> list[Row]:
    """The command as a process: memory, time to the first map, time of --help."""
    code = (
        "import sys; from edge.command import invoke; invoke(sys.argv[1:]); "
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    words = ["run", str(clip), "--maps", str(folder / "maps"), "--jsonl", str(folder / "o.jsonl")]
    peaks, firsts, helps = [], [], []
    for _ in range(5):
        before = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-c", code, *words, "--json"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        total = time.perf_counter() - before
        summary = json.loads(told[0])
        firsts.append(total - summary["seconds"] + summary["first_map_s"])
        peaks.append(int(told[1]) / 1024)
        before = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edge.command", "--help"], capture_output=True, check=True)
        helps.append(time.perf_counter() - before)
    return [
        ("aerogaze run, 1280x720: peak memory", statistics.median(peaks), "MB", 300, False),
        (
            "aerogaze run: start to first map, end of process included",
            statistics.median(firsts),
            "s",
            2,
            False,
        ),
        ("aerogaze --help", statistics.median(helps), "s", 0.3, False),
    ]


def metric_rows() -> list[Row]:
    """AUC of a batch of 1280x720 maps, on one core, against pysaliency's `AUC_per_image` and `AUCs`.

    The former is its AUC of a frame; the latter, one number a fixation, has the same mean and sorts once.
    """
    try:
        import pysaliency
    except ImportError as error:
        print(f"AUC against pysaliency: skipped, {error}: pip install -c constraints.txt '.[oracle]'")
        return []
    rng = np.random.default_rng(0)
    logits = [cv2.resize(rng.normal(0, 2, (36, 64)), (1280, 720)).astype(np.float32) for _ in range(6)]
    maps = [np.exp(values) for values in logits]
    points = [rng.integers(0, (720, 1280), (count, 2)) for count in (10, 30, 100) * 2]

    class Maps(pysaliency.SaliencyMapModel):  # type: ignore[misc]
        def saliency_map(self, stimulus: pysaliency.datasets.Stimulus) -> object:
            return maps[stimulus.stimulus_data[0, 0]]

        _saliency_map = saliency_map

    stimuli = pysaliency.Stimuli([np.full((720, 1280), index, np.uint8) for index in range(len(maps))])
    places = np.concatenate(points)
    fixations = pysaliency.Fixations.create_without_history(
        x=places[:, 1], y=places[:, 0], n=np.repeat(range(len(maps)), [len(at) for at in points])
    )
    model = Maps()
    vars(np).setdefault("trapz", np.trapezoid)  # AUC_per_image calls it by its name before numpy 2.4
    seconds = turns(
        {
            "AUC_per_image": lambda: model.AUC_per_image(stimuli, fixations),
            "AUCs": lambda: model.AUCs(stimuli, fixations),
            "ours": lambda: [auc_judd(saliency, at) for saliency, at in zip(maps, points, strict=True)],
        },
        calls=1,
        rounds=20,
    )
    print({name: f"{value * 1e3 / len(maps):.2f} ms a map" for name, value in seconds.items()})
    what, ours = "AUC, 1280x720: pysaliency's", seconds["ours"]
    return [
        (f"{what} over ours", seconds["AUC_per_image"] / ours, "x", 5, True),
        (f"{what} sorting once over ours", seconds["AUCs"] / ours, "x", 3, True),
    ]


def main() -> None:
    """Measure, print one table, keep the numbers; exit 1 if a bound is broken."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 30, (1280, 720))
        world = World(2, 1280, 720, 30)
        images = [world.frame(index).image for index in range(30)]
        for _ in range(10):
            for image in images:
                writer.write(image)
        writer.release()
        rows = [*engine_rows(folder), *streaming_rows(folder)]
        rows += [*pipeline_rows(clip, folder), *process_rows(clip, folder)]
        rows += live_rows(clip, folder)
        rows += metric_rows()
    machine = this_machine()
    table = Table(title=f"{machine.cpu}, {machine.cores} cores", title_justify="left")
    for column in ("what", "measured", "bound", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    broken = 0
    for what, value, unit, bound, least in rows:
        held = value >= bound if least else value <= bound
        broken += not held
        sign = "at least" if least else "at most"
        table.add_row(what, f"{value:.2f} {unit}", f"{sign} {bound:g}", "" if held else "BROKEN")
    Console().print(table)
    OUT.parent.mkdir(exist_ok=True)
    document = {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "rows": [dict(zip(("what", "value", "unit", "bound", "at_least"), row, strict=True)) for row in rows],
    }
    OUT.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {OUT}")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
