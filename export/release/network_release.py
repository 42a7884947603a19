"""Release builder for networks from elsewhere: an ONNX file becomes a release like a student's.

The expected maps are those of the file itself, run by ONNX Runtime, with frames and maps converted by plain
NumPy code (`export.networks.network_format`). So all that is done to the graph is verified, except that
float16 is widened to float32 before.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.inputs.calibration_frames import GOLDEN_FRAMES, CalibrationFrames
from calibration.inputs.distribution_shift import (
    STATISTICS_FILE,
    ChannelStatistics,
    save_statistics,
    statistics_from_batch_norms,
)
from calibration.inputs.graph_inputs import InputFeeder, Window
from calibration.inputs.graph_repair import repair_graph
from calibration.inputs.onnx_import import convert_opset, opset_of, simplify
from edge.core.atomic_files import atomic_folder
from edge.core.errors import CheckError, InputError
from edge.inference.interface.recurrent_state import RecurrentState
from edge.release.manifest import save_release
from edge.release.quantization import QUANTIZATION_FILE, save_quantization
from edge.release.release import GOLDEN_FILE, ClipSpec, Form, Release, StateSpec
from export.graphs.fp16 import float_outputs, to_fp16
from export.graphs.frame_window import WINDOW_PREROLL, to_window_stream, window_states
from export.graphs.int8 import CalibrationResult, build_int8_graphs, calibration_document
from export.graphs.int8_search import CalibrationOptions
from export.graphs.onnx_export import SALIENCY
from export.networks.network_adapter import FRAME, adapt_network
from export.networks.network_guess import Network, open_network
from export.release.builder import EXPORT_OPTIONS, is_release_file
from export.release.graph_writer import GraphKind, GraphWriter
from export.release.parity import NOTHING_WRITTEN, GoldenSet, Map, golden_windows

KIND = "onnx"


@dataclass(frozen=True)
class ModelCard:
    """What the user states about a network.

    Attributes:
        name: Name of the release.
        licence: Its licence.
        source: Where it is from.
    """

    name: str
    licence: str
    source: str


def window_of(network: Network) -> int:
    """Return the number of consecutive frames to calibrate a network's map on."""
    return GOLDEN_FRAMES if network.states else network.source.frames


def make_network_release(
    network: Network,
    card: ModelCard,
    frames: CalibrationFrames,
    folder: Path,
    options: CalibrationOptions = EXPORT_OPTIONS,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[Release, tuple[str, ...]]:
    """Make a release of a network. The folder is written as a whole or not at all.

    Args:
        network: The network.
        card: What the user states about it.
        frames: Footage to calibrate on, and footage held out to verify on, in windows of `window_of`.
        folder: Folder of the release.
        options: Options of the calibration.
        on_step: Called with the name of each step.

    Returns:
        The release; and why a precision is missing, one sentence each.

    Raises:
        InputError: The folder cannot be written or holds other files; the network cannot fly.
        CheckError: The fp32 graph gives other maps than the file.
    """
    on_step("maps of the file")
    expected = list(compute_network_maps(network, frames.held_out))
    _check_maps(network, expected)
    windows = golden_windows(frames.golden, network.source.frames - 1, 0, window_of(network))
    golden = GoldenSet(windows, list(compute_network_maps(network, windows)))
    on_step("graph")
    model, statistics = _prepare_graph(network)
    peak = max(float(saliency.max()) for saliency in expected)
    writer = GraphWriter(frames.held_out, expected, golden, on_step, peak)
    with atomic_folder(folder, is_ours=is_release_file) as path:
        if statistics:
            save_statistics(statistics, path / STATISTICS_FILE)
        feeder = _feeder(network)
        result, missing = _write_graphs(
            model, statistics, feeder, GraphKind("stream", "fp32", 1), frames, options, path, writer
        )
        results: dict[Form, CalibrationResult] = {"stream": result} if result is not None else {}
        save_quantization(
            {form: result.quantization for form, result in results.items()}, path / QUANTIZATION_FILE
        )
        np.savez_compressed(path / GOLDEN_FILE, frames=frames.golden, maps=np.stack(golden.maps))
        calibrated = calibration_document(frames, options, results) if results else None
        release = _describe_release(network, card, path, writer, calibrated)
        save_release(release)
    return release, tuple(missing)


def _describe_release(
    network: Network, card: ModelCard, folder: Path, writer: GraphWriter, calibrated: dict[str, Any] | None
) -> Release:
    """Return the release of a network in a folder, with the graphs that were written."""
    source, target = network.source, network.target
    map_size = target.map_width, target.map_height
    return Release(
        folder=folder,
        name=card.name,
        student={"kind": KIND, "file": network.path.name},
        preprocessing=source.preprocessing,
        inputs=(FRAME,),
        output=SALIENCY,
        delay_frames=0,
        preroll=WINDOW_PREROLL if source.frames > 1 else 0,
        states=_release_states(network),
        graphs=tuple(writer.graphs),
        trained={"imported": describe_origin(network, card)},
        calibrated=calibrated,
        clip=ClipSpec(source.frames, 1) if source.frames > 1 else None,
        map_size=map_size if map_size != (source.width, source.height) else None,
    )


def describe_origin(network: Network, card: ModelCard) -> dict[str, Any]:
    """Return the card of a network: its file, its licence as stated, and how it is used."""
    return {
        "kind": KIND,
        "file": network.path.name,
        "sha256": hashlib.sha256(network.path.read_bytes()).hexdigest(),
        "licence": card.licence,
        "source": card.source,
        "opset": opset_of(network.model),
        "producer": f"{network.model.producer_name} {network.model.producer_version}".strip(),
        "input": dataclasses.asdict(network.source),
        "output": dataclasses.asdict(network.target),
        "preprocessing": vars(network.source.preprocessing),
    }


def compute_network_maps(network: Network, windows: Iterable[Window]) -> Iterable[Map]:
    """Yield the map (H, W) of each window's last frame, as the file gives it."""
    session = open_network(network.path, network.model)
    source, target = network.source, network.target
    starts = {state.input: np.full(state.shape, state.start, np.float32) for state in network.states}
    for window in windows:
        carried: RecurrentState[Any] = RecurrentState(network.states, starts)
        for frame in window[:-1] if network.states else ():
            feed = {source.name: source.convert([frame]), **carried.feed()}
            carried.update(dict(zip(carried.outputs, session.run(carried.outputs, feed), strict=True)))
        feed = {source.name: source.convert(list(window[-source.frames :])), **carried.feed()}
        yield target.convert(session.run([target.name], feed)[0])


def _check_maps(network: Network, maps: Sequence[Map]) -> None:
    """Check that the file's maps can be maps.

    Raises:
        InputError: A value is not finite, or no map varies.
    """
    name = network.target.name
    if not all(np.isfinite(saliency).all() for saliency in maps):
        raise InputError(
            f"{network.path}: output {name} is not finite on these frames; expected finite numbers: the "
            "network is broken, or its input has another range (--preset, --mean, --std)"
        )
    if all(
        float(saliency.max()) - float(saliency.min()) <= 1e-6 * float(saliency.max()) for saliency in maps
    ):
        raise InputError(
            f"{network.path}: output {name} is the same everywhere on these frames (negative values count "
            "as 0); expected a map: give the --activation that makes one, or another --output"
        )


def _prepare_graph(network: Network) -> tuple[onnx.ModelProto, ChannelStatistics]:
    """Return the release's fp32 graph, and the statistics of its batch norms."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    repair_graph(model)
    statistics = statistics_from_batch_norms(model)
    model = convert_opset(network.path, model)
    adapted = adapt_network(model, network.source, network.target, network.states)
    simplified = simplify(network.path, adapted)
    if network.source.frames > 1:
        simplified = to_window_stream(simplified, FRAME, _release_states(network))
    names = {name for node in simplified.graph.node for name in node.output}
    return simplified, {name: value for name, value in statistics.items() if name in names}


def _release_states(network: Network) -> tuple[StateSpec, ...]:
    """Return the states of a network's stream: its own, or the frames of its window."""
    source = network.source
    return network.states or window_states(source.frames, source.height, source.width)


def _feeder(network: Network) -> InputFeeder:
    return InputFeeder(
        prepare=network.source.preprocessing,
        inputs=(FRAME,),
        output=SALIENCY,
        states=_release_states(network),
        clip=network.source.frames,
    )


def _write_graphs(
    model: onnx.ModelProto,
    statistics: ChannelStatistics,
    feeder: InputFeeder,
    kind: GraphKind,
    frames: CalibrationFrames,
    options: CalibrationOptions,
    folder: Path,
    writer: GraphWriter,
) -> tuple[CalibrationResult | None, list[str]]:
    """Write the graphs of all precisions; return the calibration, and why a precision is missing.

    fp32 must be right. Each other precision may fail on its own.
    """
    missing = []
    maps = writer.add(folder, model, feeder, kind)
    try:
        fp16 = to_fp16(model, [FRAME, *float_outputs(model, feeder)])
        writer.add(folder, fp16, feeder, dataclasses.replace(kind, precision="fp16"))
    except (InputError, CheckError) as error:
        missing.append(f"no fp16: {_reason(error)}")
    try:
        result = build_int8_graphs(
            model,
            feeder,
            frames,
            statistics,
            options,
            lambda step, advance, total: writer.on_step(step),
            maps=maps,
        )
    except InputError as error:
        return None, [*missing, f"no int8: {error}"]
    for int8 in result.int8:
        if int8.model is None:
            missing.append(f"no int8 for {int8.engine}: {int8.search.reason}")
            continue
        try:
            int8_kind = dataclasses.replace(kind, precision="int8", engine=int8.engine)
            writer.add(folder, int8.model, feeder, int8_kind, int8.maps)
        except CheckError as error:
            missing.append(f"no int8 for {int8.engine}: {_reason(error)}")
    return result, missing


def _reason(error: Exception) -> str:
    """Return why a precision is missing. The others are written."""
    return str(error).removesuffix(NOTHING_WRITTEN)
