"""A release whose graphs take raw frames, made from one whose graphs take prepared ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.inputs.distribution_shift import STATISTICS
from edge.core.atomic_files import written_folder
from edge.core.errors import CheckError, InputError
from edge.metrics.saliency import cc
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.release.manifest import GOLDEN_FILE, Graph, Release, load_release, save_release
from edge.release.quantization import QUANTIZATION_FILE
from export.compare.graph_stepper import Place, Side, Spec
from export.graphs.fused_preprocessing import fuse_preprocessing
from export.release.builder import is_release_file

Frames = NDArray[np.uint8]
Maps = NDArray[np.float32]
TOLERANCE = 5e-3
"""Of 1 - CC, mean over the golden frames, against the graph without: inputs differ by a grey level here and
there, which shows most in int8.
"""


def make_fused_release(plain: Release, raw: RawFrameSpec, folder: Path) -> Release:
    """Make a release into one whose streaming graphs take raw frames; `folder` appears whole or not at all.

    Each graph is held to the one that it was made from, which was given frames prepared by the reference.
    The golden maps are those of the plain fp32 graph on the golden frames as a raw frame shows them.

    Raises:
        InputError: the release has no stream form or takes raw frames already; the folder cannot be
            written.
        CheckError: a graph's maps are not those of the graph that it was made from.
    """
    streams = [graph for graph in plain.graphs if graph.form == "stream"]
    if plain.preprocessing.alignment is not None:
        raise InputError(
            f"release {plain.name} looks for the camera's motion in each frame, which no graph does; "
            "expected a student without alignment"
        )
    if not streams or plain.raw_frame is not None:
        what = "takes raw frames already" if streams else "has no stream form"
        raise InputError(f"release {plain.name} {what}; expected a streaming release of prepared frames")
    with written_folder(folder, ours=is_release_file) as path:
        with np.load(plain.folder / GOLDEN_FILE, allow_pickle=False) as golden:
            kept = golden["frames"]
        for name in (STATISTICS, QUANTIZATION_FILE):  # both are of tensors that the graphs still have
            if (plain.folder / name).is_file():
                shutil.copyfile(plain.folder / name, path / name)
        for graph in streams:
            model = onnx.load(plain.path(graph))
            onnx.save(
                fuse_preprocessing(model, plain.inputs[:1], plain.preprocessing, raw), path / graph.file
            )
        shown = np.stack([raw.seen(raw.stretched(frame)) for frame in kept])
        reference = _maps(plain, next(g for g in streams if g.precision == "fp32"), shown)
        np.savez_compressed(path / GOLDEN_FILE, frames=kept, maps=reference)
        fused = replace(plain, folder=path, graphs=tuple(streams), inputs=plain.inputs[:1], raw_frame=raw)
        frames, _ = fused.golden()
        fused = replace(
            fused, graphs=tuple(_verified(plain, fused, g, shown, frames, reference) for g in streams)
        )
        save_release(fused)
    return load_release(folder)


def _verified(
    plain: Release, fused: Release, graph: Graph, shown: Frames, frames: Frames, reference: Maps
) -> Graph:
    before, after = _maps(plain, graph, shown), _maps(fused, graph, frames)
    likeness = float(np.mean([cc(a, b) for a, b in zip(after, before, strict=True)]))
    if not likeness >= 1 - TOLERANCE:
        raise CheckError(
            f"{graph.file} with its preprocessing inside gives other maps than without (CC {likeness:.5f}, "
            f"expected at least {1 - TOLERANCE}); nothing was written"
        )
    golden = min(cc(a, b) for a, b in zip(after, reference, strict=True))
    found = graph.verified
    return replace(graph, verified=found and replace(found, golden_cc=golden))


def _maps(release: Release, graph: Graph, frames: Frames) -> Maps:
    """Return the maps (N, h, w) of a clip (N, H, W, 3), as it would fly."""
    place: Place = "tensorrt" if graph.engine == "tensorrt" else "onnxruntime"
    side = Side(Spec(graph.file, release.path(graph), graph.precision, place, release, graph.form), release)
    try:
        padded = [*frames, *([frames[-1]] * release.delay_frames)]
        steps = [side.step(frame) for frame in padded]
        maps = [outputs[release.output][0, 0] for outputs in steps if outputs is not None]
    finally:
        side.close()
    return np.stack(maps[release.delay_frames :]).astype(np.float32)
