"""Items about the machine: nodes and rights, versions, CUDA libraries, the tests, ONNX Runtime."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import edge
from edge.acceptance.workspace import RELEASE, TARGETS, Outcome, UnavailableError, Workspace, require_gpu
from edge.core.errors import InputError
from edge.diagnostics.report import Redactor, diagnose
from edge.hardware.board import read_board_facts
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors
from edge.inference.cuda.backend import BACKENDS, open_cuda
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.api import load_tensorrt
from edge.profiler.measurement.conditions import describe_machine, package_versions
from edge.profiler.measurement.sampler import measure_latency
from edge.release.manifest import load_release

SUBJECTS = ("NVIDIA driver", "GPU", "Device nodes", "Render node", "CUDA backend", "TensorRT")
"""Findings of `aerogaze doctor` that the table shows."""
POWER_COMMANDS = (("nvpmodel", "-q"), ("jetson_clocks", "--show"))
COMMAND_TIMEOUT_S = 10
TESTS = "tests/gpu"
SUMMARY = re.compile(r"\d+ (?:passed|failed|skipped|errors?)\b")
BYTES = 1 << 24
"""Size of the block that a CUDA backend copies."""


def describe(workspace: Workspace) -> Outcome:
    """Report what `aerogaze doctor` finds, versions, power mode and clocks."""
    report = diagnose().to_dict(Redactor.of_this_process())
    findings = {row["subject"]: row for rows in report["sections"].values() for row in rows}
    texts = [f"{name}: {findings[name]['text']}" for name in SUBJECTS if name in findings]
    sensors = Sensors(Path("/"), Nvml.open()).read()
    commands = {" ".join(words): _run(words) for words in POWER_COMMANDS if shutil.which(words[0])}
    facts, load = read_board_facts(), os.getloadavg()[0]
    texts.append(f"load {load:.1f} on {os.cpu_count()} cores")
    texts += [f"power mode {facts.power_mode_name}"] if facts.power_mode_name else []
    values: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "doctor": report,
        "load": load,
        "clocks_mhz": dict(sensors.clocks_mhz),
        "temperatures_c": dict(sensors.temperatures_c),
        "commands": commands,
    }
    return Outcome("; ".join(texts), values)


def _run(words: tuple[str, ...]) -> str:
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return process.stdout + process.stderr


def run_on_onnxruntime(workspace: Workspace) -> Outcome:
    """Open the release on ONNX Runtime, which checks its golden maps, and time it: what a GPU must beat."""
    release, runs = load_release(RELEASE), 100 if workspace.quick else 300
    rows = {}
    for precision in release.precisions("stream", "onnxruntime"):
        SaliencyModel(release, precision, 1, "onnxruntime").close()
        rows[precision] = measure_latency(release, precision, "onnxruntime", 1, runs, 20)
    text = ", ".join(f"{precision} p50 {row['p50_ms']:.2f} ms" for precision, row in rows.items())
    return Outcome(f"{RELEASE} on one thread: golden maps are right; {text}", {"latency": rows})


def check_backends(workspace: Workspace) -> Outcome:
    """Copy a block to the GPU and back with each CUDA library that is installed."""
    require_gpu()
    texts: list[str] = []
    values: dict[str, dict[str, Any]] = {}
    for name in BACKENDS:
        try:
            cuda = open_cuda(name)
        except InputError as error:
            values[name] = {"problem": str(error)}
            texts.append(f"{name}: {error}")
            continue
        source, result = cuda.allocate_pinned((BYTES,), np.uint8), cuda.allocate_pinned((BYTES,), np.uint8)
        source.values[...] = np.arange(BYTES, dtype=np.uint8)
        block, stream = cuda.allocate(BYTES), cuda.create_stream()
        cuda.copy(block, source, stream)
        cuda.copy(result, block, stream)
        cuda.synchronize(stream)
        is_right, memory = bool((source.values == result.values).all()), cuda.available_bytes()
        values[name] = {"copies_right": is_right, "integrated": cuda.integrated, "available_bytes": memory}
        texts.append(
            f"{cuda.description}: copies {'right' if is_right else 'WRONG'}, memory "
            f"{'shared with the CPU' if cuda.integrated else 'of its own'}, {memory / 1e9:.1f} GB free"
        )
        cuda.close()
    right = [value["copies_right"] for value in values.values() if "copies_right" in value]
    return Outcome("; ".join(texts), values, "one backend works", bool(right) and all(right))


def run_tests(workspace: Workspace) -> Outcome:
    """Run the tests of the GPU; what this machine has must be used, or they fail."""
    require_gpu()
    root = Path(edge.__file__ or "").parents[1]
    if not (root / TESTS).is_dir():
        raise UnavailableError("the tests are not part of the package: run this in the source tree")
    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        raise UnavailableError("pytest or hypothesis is missing: pip install pytest hypothesis")
    needs = _needs()
    words = [sys.executable, "-m", "pytest", TESTS, "-q", "-ra", "-p", "no:cacheprovider"]
    words += [f"--ignore={TESTS}/test_standin.py", "-k", "not simulated"]  # for machines without a GPU
    environment = {**os.environ, "AEROGAZE_NEEDS": ",".join(needs)}
    process = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True)
    lines = process.stdout.strip().splitlines()
    counts = ", ".join(SUMMARY.findall(lines[-1] if lines else ""))
    print(process.stdout, process.stderr)
    text = f"{counts or 'no summary'}; needed: {', '.join(needs) or 'nothing'}"
    values = {"needs": needs, "output": lines[-40:]}
    return Outcome(text, values, "none fails", process.returncode == 0)


def _needs() -> list[str]:
    """Return what the tests must be able to use, by the names of AEROGAZE_NEEDS."""
    needs = ["gpu"]
    modules = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
    needs += [name for name, module in modules.items() if find_spec(module) is not None]
    for kind in TARGETS.values():
        try:
            load_tensorrt(kind)
        except InputError:
            continue
        return [*needs, kind]
    return needs
