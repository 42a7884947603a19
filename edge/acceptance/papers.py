"""Items about the papers' protocol: SKD-32 on pairs of frames, fp16, batch 256, timed without copies."""

from __future__ import annotations

from pathlib import Path

from edge.acceptance.workspace import (
    Outcome,
    UnavailableError,
    Workspace,
    copy_release,
    find_target,
    require_gpu,
    run_aerogaze,
)
from edge.core.errors import InputError
from edge.profiler.extensions import load_candidate_source
from edge.profiler.measurement.candidate import Candidate, find_candidates, golden_feeds
from edge.profiler.measurement.stages import time_gpu_stages
from edge.profiler.report.table import PAPER_FPS
from edge.release.manifest import load_release
from edge.release.release import Release

STUDENT, BATCH = "skd-32", 256
PAPER_GPU_FPS = PAPER_FPS["GPU (one GTX 1080 Ti)"]
GOAL = 10
FOOTAGE = ("synthetic:90001:256x144:11", "synthetic:90002:256x144:11", "synthetic:90003:256x144:11")
EXPORT = f"aerogaze export {STUDENT} --form pair --out PAIRS at a desk, then --pairs PAIRS here"


def run_on_tensorrt(workspace: Workspace) -> Outcome:
    """Build the pair graph and time it at the papers' batch."""
    require_gpu()
    target = find_target()
    folder = copy_release(workspace, open_pairs(workspace), "fp16", "pair")
    run_aerogaze(["build", folder, "--target", target])
    candidates, _ = find_candidates(load_release(folder), ["fp16"], "pair", "tensorrt", batches=[BATCH])
    return _time(load_release(folder), candidates)


def run_on_torch(workspace: Workspace) -> Outcome:
    """Time the student in PyTorch, as a CUDA graph and eagerly."""
    require_gpu()
    try:
        torch_candidates = load_candidate_source("torch")
    except InputError as error:
        raise UnavailableError(str(error)) from None
    release = open_pairs(workspace)
    candidates, _ = torch_candidates(STUDENT, release, ["fp16"], "pair", None, [BATCH])
    if all(candidate.open_timed is None for candidate in candidates):
        raise UnavailableError("this PyTorch sees no GPU: install one that was built for CUDA")
    return _time(release, candidates)


def open_pairs(workspace: Workspace) -> Release:
    """Return the release in pair form: the one that was named, or one that is exported here.

    Raises:
        UnavailableError: None was named, and the tools for export are not installed.
    """
    if workspace.pairs is not None:
        return load_release(workspace.pairs)
    folder: Path = workspace.folder / STUDENT
    if not folder.is_dir():
        words = ["export", STUDENT, "--form", "pair", "--out", str(folder), "--calibration-frames", "20"]
        for source in FOOTAGE:
            words += ["--frames", source]
        try:
            run_aerogaze(words)
        except InputError as error:
            raise UnavailableError(f"no pair graphs ({error}): {EXPORT}") from None
    return load_release(folder)


def _time(release: Release, candidates: list[Candidate]) -> Outcome:
    """Time candidates on the GPU without the copies."""
    texts, values = [], {}
    feeds = golden_feeds(release, "pair", BATCH)
    for candidate in candidates:
        times = time_gpu_stages(candidate, feeds)
        assert times is not None
        fps = BATCH * 1e3 / times["gpu_ms"]
        values[candidate.name] = {"fps": fps, **times}
        texts.append(f"{candidate.name}: {fps:,.0f} fps, {fps / PAPER_GPU_FPS:.1f} times the paper's")
    best = max(value["fps"] for value in values.values())
    goal = f"at least {GOAL} times {PAPER_GPU_FPS:,.0f} fps"
    return Outcome("; ".join(texts), {"batch": BATCH, **values}, goal, best >= GOAL * PAPER_GPU_FPS)
