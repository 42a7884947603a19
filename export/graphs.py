"""A student as fp32 ONNX graphs: batch norm folded, in pair form and in streaming form."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge.release import Form, State
from trainer.models.skd import FEATURES, SpatiotemporalNetwork
from trainer.models.student import Student, as_skd, saliency

OPSET = 20
"""Q/DQ on float16 needs 19; ONNX Runtime's quantiser refuses 21 and above."""
FRAME, OTHER, SALIENCY = "frame", "other", "saliency"


class PairForm(nn.Module):
    """frame, other (N, 3, R, R) to the frame's saliency (N, 1, R, R)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        settings, network = as_skd(student)
        self.network, self.head = folded(network), settings.head

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return the saliency map of `frame`."""
        return saliency(self.network(frame, other), self.head)


class StreamForm(nn.Module):
    """frame (1, 3, R, R) and the trunk's features of the one before, to saliency and features.

    The trunk runs once a frame. Paired with the previous frame, the map is the new frame's; paired
    with the next, it is that of the frame before: a delay of one frame.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        settings, network = as_skd(student)
        self.network, self.head = folded(network), settings.head
        self.ahead = settings.pair == "next"

    def forward(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the saliency map and the trunk's features of `frame`."""
        features = self.network.trunk(frame)
        pair = (before, features) if self.ahead else (features, before)
        return saliency(self.network.fuse(*pair), self.head), features


def folded(network: SpatiotemporalNetwork) -> SpatiotemporalNetwork:
    """Return a copy whose batch norms and feature difference are folded into the convolutions."""
    network = copy.deepcopy(network).eval()
    for block in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        if len(block) > 1 and isinstance(block[1], nn.BatchNorm2d):
            convolution = block[0]
            assert isinstance(convolution, (nn.Conv2d, nn.ConvTranspose2d))
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            block[0] = fuse_conv_bn_eval(convolution, block[1], transpose=transposed)
            block[1] = nn.Identity()
    network.fold_change()
    return network


def states(student: Student) -> tuple[State, ...]:
    """Return what the streaming form carries."""
    settings, _ = as_skd(student)
    side = settings.resolution // 4
    return (State("features", "features_out", (1, FEATURES, side, side), 0.0, settings.lag_s),)


def to_onnx(student: Student, form: Form, batch: int | None) -> onnx.ModelProto:
    """Return the fp32 graph. `batch`: None leaves the pair form's batch dynamic."""
    side = as_skd(student)[0].resolution
    frame = torch.zeros(batch or 2, 3, side, side)
    module: nn.Module
    if form == "stream":
        carried = states(student)[0]
        module = StreamForm(student)
        features = torch.zeros(frame.shape[0], *carried.shape[1:])
        arguments: tuple[Tensor, ...] = (frame, features)
        inputs, outputs = [FRAME, carried.input], [SALIENCY, carried.output]
    else:
        # Two tensors: the exporter would take one tensor given twice for one input.
        module, arguments = PairForm(student), (frame, frame.clone())
        inputs, outputs = [FRAME, OTHER], [SALIENCY]
    return _export(module.eval(), arguments, inputs, outputs, dynamic=batch is None)


def _export(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: bool,
) -> onnx.ModelProto:
    axes = tuple({0: torch.export.Dim("batch")} for _ in arguments) if dynamic else None
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                arguments,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_shapes=axes,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model
