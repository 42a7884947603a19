"""Fusion of preprocessing into a release: its graphs then take raw frames."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.inputs.distribution_shift import STATISTICS_FILE
from edge.core.atomic_files import atomic_folder
from edge.core.errors import CheckError, InputError
from edge.metrics.saliency import cc
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.release.manifest import load_release, save_release
from edge.release.quantization import QUANTIZATION_FILE
from edge.release.release import GOLDEN_FILE, Graph, Release
from export.compare.graph_operand import Backend, GraphOperand
from export.compare.graph_stepper import open_stepper
from export.graphs.fused_alignment import HOMOGRAPHY, fuse_aligned_preprocessing, resized_frame_state
from export.graphs.fused_preprocessing import fuse_preprocessing
from export.release.builder import is_release_file

Frames = NDArray[np.uint8]
Maps = NDArray[np.float32]
TOLERANCE = 5e-3
"""Limit for 1 - CC with the graph before fusion, mean over the golden frames. Inputs differ by a grey level
in a few pixels, which has the largest effect in int8."""


@dataclass(frozen=True)
class _GoldenFrames:
    """Golden frames for both releases, and the expected maps.

    Attributes:
        prepared: Frames for the release without fusion: the raw frames, converted back to images.
        raw: Frames for the fused release.
        maps: Maps of the fp32 graph without fusion.
    """

    prepared: Frames
    raw: Frames
    maps: Maps


def make_fused_release(plain: Release, raw: RawFrameSpec, folder: Path) -> Release:
    """Make a release whose streaming graphs take raw frames. The folder is written as a whole or not at all.

    Each graph is compared with the one that it was made from, which gets frames prepared by the reference.
    The golden maps are those of the plain fp32 graph on the golden frames, converted to raw frames and back.

    Args:
        plain: Release whose graphs take prepared frames.
        raw: Size and format of the raw frames.
        folder: Folder of the fused release.

    Raises:
        InputError: The release has no stream form or takes raw frames already; the folder cannot be written.
        CheckError: The maps of a graph differ from those of the graph that it was made from.
    """
    streams = [graph for graph in plain.graphs if graph.form == "stream"]
    if not streams or plain.raw_frame is not None:
        problem = "takes raw frames already" if streams else "has no stream form"
        raise InputError(f"release {plain.name} {problem}; expected a streaming release of prepared frames")
    with atomic_folder(folder, is_ours=is_release_file) as path:
        with np.load(plain.folder / GOLDEN_FILE, allow_pickle=False) as file:
            golden_frames = file["frames"]
        for name in (STATISTICS_FILE, QUANTIZATION_FILE):  # their tensors also exist in the fused graphs
            if (plain.folder / name).is_file():
                shutil.copyfile(plain.folder / name, path / name)
        for graph in streams:
            model = onnx.load(plain.path(graph))
            onnx.save(_fuse_graph(model, plain, raw), path / graph.file)
        prepared = np.stack([raw.round_trip(raw.stretch(frame)) for frame in golden_frames])
        maps = _compute_maps(plain, next(g for g in streams if g.precision == "fp32"), prepared)
        np.savez_compressed(path / GOLDEN_FILE, frames=golden_frames, maps=maps)
        fused = replace(plain, folder=path, graphs=tuple(streams), inputs=plain.inputs[:1], raw_frame=raw)
        if plain.preprocessing.alignment is not None:
            states = (*plain.states, resized_frame_state(plain.preprocessing.alignment))
            fused = replace(fused, inputs=(plain.inputs[0], HOMOGRAPHY), states=states)
        golden = _GoldenFrames(prepared, fused.load_golden()[0], maps)
        fused = replace(
            fused, graphs=tuple(_verify_fused_graph(plain, fused, graph, golden) for graph in streams)
        )
        save_release(fused)
    return load_release(folder)


def _fuse_graph(model: onnx.ModelProto, plain: Release, raw: RawFrameSpec) -> onnx.ModelProto:
    alignment = plain.preprocessing.alignment
    if alignment is None:
        return fuse_preprocessing(model, plain.inputs[:1], plain.preprocessing, raw)
    frame, earlier = plain.inputs
    return fuse_aligned_preprocessing(model, (frame, earlier), plain.preprocessing, alignment, raw)


def _verify_fused_graph(plain: Release, fused: Release, graph: Graph, golden: _GoldenFrames) -> Graph:
    """Return the graph with its correlation with the golden maps."""
    plain_maps = _compute_maps(plain, graph, golden.prepared)
    fused_maps = _compute_maps(fused, graph, golden.raw)
    mean_cc = float(np.mean([cc(a, b) for a, b in zip(fused_maps, plain_maps, strict=True)]))
    if not mean_cc >= 1 - TOLERANCE:  # also true for NaN
        raise CheckError(
            f"{graph.file} with fused preprocessing gives other maps than without (CC {mean_cc:.5f}, "
            f"expected at least {1 - TOLERANCE}); nothing was written"
        )
    golden_cc = min(cc(a, b) for a, b in zip(fused_maps, golden.maps, strict=True))
    verification = graph.verified
    return replace(graph, verified=verification and replace(verification, golden_cc=golden_cc))


def _compute_maps(release: Release, graph: Graph, frames: Frames) -> Maps:
    """Return the maps (N, h, w) of a clip (N, H, W, 3), computed frame by frame as on board."""
    backend: Backend = "tensorrt" if graph.engine == "tensorrt" else "onnxruntime"
    operand = GraphOperand(graph.file, release.path(graph), graph.precision, backend, release, graph.form)
    stepper = open_stepper(operand, release)
    try:
        padded = [*frames, *([frames[-1]] * release.delay_frames)]
        steps = [stepper.step(frame) for frame in padded]
        maps = [outputs[release.output][0, 0] for outputs in steps if outputs is not None]
    finally:
        stepper.close()
    return np.stack(maps[release.delay_frames :]).astype(np.float32)
