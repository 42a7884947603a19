"""Work of `aerogaze import` for ONNX files: reads footage, writes the release, prints what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from rich.console import Console
from rich.markup import escape

from calibration.inputs.calibration_frames import CalibrationFrames, read_frames
from calibration.inputs.image_format import Colour
from calibration.inputs.onnx_import import read_model
from calibration.ranges.histogram import MethodChoice
from calibration.search.accuracy import AccuracyBudget
from edge.cli.console import ERR_CONSOLE, print_next_step
from edge.core.atomic_files import PendingFolder, cache_folder
from edge.core.errors import InputError
from edge.core.frames import parse_size
from edge.release.release import Release
from edge.sources.factory import open_source
from export.cli.export_release import print_calibration, release_name, release_table
from export.cli.target_options import tensorrt_warnings, warn
from export.compare.input_request import parse_numbers
from export.networks.network_format import Activation, NetworkLayout, NetworkOutput
from export.networks.network_guess import Network, NetworkOptions, Preset, describe_network
from export.release.builder import EXPORT_OPTIONS, is_release_file
from export.release.network_release import ModelCard, make_network_release, window_of


# Each field is an option of the command.
@dataclass(frozen=True)
class ImportRequest:
    """Values of the command's options for an ONNX file; None for one that is not given.

    Attributes:
        name: Name of the release.
        licence: Licence of the model.
        source: Origin of the model.
        size: Size of the frames, WIDTHxHEIGHT.
        layout: Order of the axes of the input.
        window: Frames that the input takes.
        states: INPUT=OUTPUT of each recurrent state.
        colour: Order of the channels.
        preset: Name of a common mean and deviation.
        mean: Mean, numbers with commas.
        std: Deviation, numbers with commas.
        output: Name of the output with the map.
        activation: Function from the output to the map.
        map_size: Size of the map, WIDTHxHEIGHT.
        channel: Place of the map among the channels of the output.
        frames: Names of the footage.
        calibration_frames: Most windows to use.
        method: Method that chooses the ranges.
        budget: Limits for the loss of int8.
    """

    name: str | None
    licence: str
    source: str
    size: str | None
    layout: NetworkLayout | None
    window: int | None
    states: tuple[str, ...]
    colour: Colour | None
    preset: Preset | None
    mean: str | None
    std: str | None
    output: str | None
    activation: Activation | None
    map_size: str | None
    channel: int | None
    frames: tuple[str, ...]
    calibration_frames: int
    method: MethodChoice
    budget: str | None

    def network_options(self) -> NetworkOptions:
        """Return what the options say about the network.

        Raises:
            InputError: A value is not understood.
        """
        return NetworkOptions(
            size=parse_size(self.size, "--size") if self.size else None,
            layout=self.layout,
            window=self.window,
            colour=self.colour,
            preset=self.preset,
            mean=parse_numbers("--mean", self.mean),
            std=parse_numbers("--std", self.std),
            output=self.output,
            activation=self.activation,
            map_size=parse_size(self.map_size, "--map") if self.map_size else None,
            channel=self.channel,
            states=tuple(map(_parse_state, self.states)),
        )


def _parse_state(text: str) -> tuple[str, str]:
    source, separator, target = text.partition("=")
    if not (source and separator and target):
        raise InputError(f"--state {text!r} is not understood; expected INPUT=OUTPUT, such as h_in=h_out")
    return source, target


def import_network(path: Path, out: Path, request: ImportRequest) -> None:
    """Write the release of an ONNX file and print what was measured.

    Raises:
        InputError: The file, an option, the footage or the folder does not fit.
        CheckError: The release would give other maps than the file.
    """
    options = replace(EXPORT_OPTIONS, method=request.method, cache=cache_folder())
    if request.budget is not None:
        budget = AccuracyBudget.parse(request.budget)
        options = replace(options, budget=budget, thorough=True, max_trials=None)
    card = ModelCard(release_name(request.name, path.stem), request.licence, request.source)
    PendingFolder(out, is_release_file).discard()  # fails now, not after the work, if it cannot be written
    network = describe_network(path, read_model(path), request.network_options())
    print(_describe(network))
    footage = _read_footage(network, request.frames, request.calibration_frames)
    with ERR_CONSOLE.status("import") as status:
        release, missing = make_network_release(
            network,
            card,
            footage,
            out,
            options,
            lambda step: status.update(escape(f"import {card.name}: {step}")),
        )
    release = replace(release, folder=out)
    Console().print(release_table(release, out))
    warn([*network.notes, *footage.warnings, *tensorrt_warnings(_fp32_graph(release)), *missing])
    print_calibration(release, footage, window_of(network), f"those of {path.name}")
    print(f"{card.name}: licence: {card.licence}; wrote {out}")
    print_next_step(f"aerogaze run SOURCE --release {out} --overlay saliency.mp4")


def _fp32_graph(release: Release) -> onnx.ModelProto:
    return onnx.load(release.path(next(graph for graph in release.graphs if graph.precision == "fp32")))


def _read_footage(network: Network, names: Sequence[str], max_windows: int) -> CalibrationFrames:
    with ExitStack() as stack, ERR_CONSOLE.status(escape(f"reading {', '.join(names)}")):
        sources = [open_source(name) for name in names]
        for source in sources:
            stack.callback(source.close)
        return read_frames(sources, network.source.preprocessing, window_of(network), max_windows)


def _describe(network: Network) -> str:
    """Return how the network is used, so that a wrong guess is seen."""
    source, target = network.source, network.target
    values = ", ".join(
        f"v * {scale:.4g} {offset:+.4g}"
        for scale, offset in dict.fromkeys(zip(source.scale, source.offset, strict=True))
    )
    colour = "grey" if source.channels == 1 else source.colour
    frames = f"{source.frames} frames of " if source.frames > 1 else ""
    return (
        f"input {source.name}: {frames}{source.width}x{source.height} {source.layout} {colour} "
        f"{source.dtype}, {values}\n"
        f"output {target.name}{_describe_place(target)}: {target.width}x{target.height}, "
        f"activation {target.activation}, "
        f"map {target.map_width}x{target.map_height}"
    )


def _describe_place(target: NetworkOutput) -> str:
    """Return which of several maps is taken."""
    return "" if target.axis is None else f"[{', '.join([*(':' * target.axis), str(target.index)])}]"
