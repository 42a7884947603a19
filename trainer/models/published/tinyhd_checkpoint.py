"""Reader of TinyHD checkpoints in the layout of the authors' published files, such as `d123m_rc4_rc1T.pth`.

Variant, channel reduction and decoders are read from the shapes of the tensors. Shapes cannot tell which
decoders of a checkpoint with 16 maps shrink time to one step; as in the published ones, D1 does, D2 and D3
do not.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.models.mobilenet3d import REDUCTIONS, Reduction
from trainer.models.student import TinyHDSettings
from trainer.models.tinyhd import DECODERS, LEVELS, TinyHD, Variant
from trainer.models.tinyhd_decoders import Adapter

STUDENT_KEY = "student_model"
"""Key of the state dict in a published file."""
_STEM = "encoder.encoder.0.0.weight"
_MIXING = "decoder.decoder.0"
_ADAPTER = "aggregator.aggregate_adapter.{}.conv"
_ADAPTERS = {"D1": 16, "D2": 8, "D3": 13}
"""Number of adapters of each decoder."""
_EXPECTED = "expected a TinyHD checkpoint as its authors publish them, such as d123m_rc4_rc1T.pth"


def load_tinyhd_checkpoint(
    path: Path, height: int = 192, width: int = 256, d1_last: bool = False
) -> tuple[TinyHDSettings, TinyHD]:
    """Load a published checkpoint strictly. Only tensors are read; code in the file is never run.

    Args:
        path: The checkpoint.
        height: Height of the frames that the student will take.
        width: Width of these frames.
        d1_last: Whether the checkpoint mixes D1's maps after those of all other decoders, as
            `d1d2d3_M_lt` does. Shapes cannot tell.

    Returns:
        Settings of the student, and its network in evaluation mode.

    Raises:
        InputError: No such file, code or anything but tensors in it, or tensors that do not fit.
    """
    published = _read_tensors(path)
    try:
        variant: Variant = "S" if published[f"{_MIXING}.weight"].dim() == 4 else "M"
        rc = _read_reduction(published)
        order = _read_decoders(published, TinyHD(variant, rc).encoder.channels, rc)
        settings = TinyHDSettings(variant, rc, tuple(sorted(order)), height, width)
        network = settings.build()
        network.load_state_dict(_to_own_keys(network, published, order, d1_last))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path} does not fit TinyHD ({detail[:200]}); {_EXPECTED}") from None
    return settings, network.eval()


def published_keys(network: TinyHD, order: Sequence[str]) -> dict[str, str]:
    """Return the published key of each tensor of a network, without those of the mixing convolution.

    Args:
        network: The network.
        order: Its decoders in the order in which the file numbers their adapters.
    """
    encoder, adapters = network.encoder, _adapters(network, order)
    blocks: list[tuple[nn.Module, str]] = [(encoder.stem, "encoder.encoder.0")]
    for index, block in enumerate((b for scale in encoder.scales for b in scale.children()), start=1):
        simple = isinstance(block, nn.Sequential)  # the last one, a single convolution
        blocks.append((block, f"encoder.encoder.{index}" + ("" if simple else ".conv")))
    blocks += [(adapter, _ADAPTER.format(index)) for index, adapter in enumerate(adapters)]
    names = {module: name for name, module in network.named_modules()}
    keys: dict[str, str] = {}
    for block, prefix in blocks:
        convolutions = [module for module in block.modules() if isinstance(module, nn.Conv3d)]
        norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
        for conv, norm, pair in zip(convolutions, norms, _pair_keys(prefix, len(norms)), strict=True):
            keys[f"{names[conv]}.weight"] = f"{pair[0]}.weight"
            keys |= {f"{names[norm]}.{entry}": f"{pair[1]}.{entry}" for entry in norm.state_dict()}
    return keys


def _adapters(network: TinyHD, order: Sequence[str]) -> Iterator[Adapter]:
    for name in order:
        yield from (module for module in network.decoders[name].modules() if isinstance(module, Adapter))


def _pair_keys(prefix: str, pairs: int) -> list[tuple[str, str]]:
    """Return the keys of each convolution of a block and its norm: only those with activation are nested."""
    if pairs == 1:
        return [(f"{prefix}.0", f"{prefix}.1")]
    last = pairs - 1
    nested = [(f"{prefix}.{index}.0", f"{prefix}.{index}.1") for index in range(last)]
    return [*nested, (f"{prefix}.{last}", f"{prefix}.{pairs}")]


def _to_own_keys(
    network: TinyHD, published: Mapping[str, Tensor], order: Sequence[str], d1_last: bool
) -> dict[str, Tensor]:
    """Return the published tensors as a state dict of the network.

    Raises:
        KeyError: A tensor is missing.
        ValueError: There are other tensors.
    """
    keys = published_keys(network, order)
    own = {name: published[key] for name, key in keys.items()}
    others = set(published) - set(keys.values()) - {f"{_MIXING}.weight", f"{_MIXING}.bias"}
    if others:
        raise ValueError(f"unknown tensor {min(others)}")
    own["fusion.weight"] = _mixing_weight(published, order, d1_last)
    own["fusion.bias"] = published[f"{_MIXING}.bias"]
    return own


def _mixing_weight(published: Mapping[str, Tensor], order: Sequence[str], d1_last: bool) -> Tensor:
    """Return the weights of the mixing convolution (1, maps, 1, 1, 1) in the order D1, D2, D3."""
    if d1_last:
        order = [*(name for name in order if name != "D1"), *(name for name in order if name == "D1")]
    sizes = [len(LEVELS) if name == "D1" else 1 for name in order]
    weight = published[f"{_MIXING}.weight"]
    by_decoder = dict(zip(order, torch.split(weight, sizes, dim=1), strict=True))
    sorted_weight = torch.cat([by_decoder[name] for name in sorted(order)], dim=1)
    return sorted_weight.reshape(*sorted_weight.shape[:2], 1, 1, 1)


def _read_reduction(published: Mapping[str, Tensor]) -> Reduction:
    channels = published[_STEM].shape[0]
    for rc in REDUCTIONS:
        if channels * rc == 32:
            return rc
    raise ValueError(f"the stem has {channels} channels")


def _read_decoders(published: Mapping[str, Tensor], channels: Sequence[int], rc: Reduction) -> list[str]:
    """Return the decoders in the order of the file: each starts with an adapter of other widths."""
    x0, x1, x2, x3 = channels
    first_widths = {(x0, 24): "D1", (x3, 4 * x2): "D2", (x0, x1 // 4 if rc == 1 else x1): "D3"}
    order: list[str] = []
    index = 0
    while f"{_ADAPTER.format(index)}.2.weight" in published and len(order) < len(DECODERS):
        prefix = _ADAPTER.format(index)
        widths = published[f"{prefix}.0.0.weight"].shape[1], published[f"{prefix}.2.weight"].shape[0]
        if widths not in first_widths:
            raise ValueError(
                f"no decoder starts with adapter {index}, of {widths[0]} to {widths[1]} channels"
            )
        order.append(first_widths[widths])
        index += _ADAPTERS[order[-1]]
    if not order:
        raise ValueError("it has no decoder")
    return order


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file.

    Raises:
        InputError: No such file, or it holds anything but tensors.
    """
    document = _load(path)
    state = document.get(STUDENT_KEY, document) if isinstance(document, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a state dict of tensors; {_EXPECTED}")
    tensors = {str(name): value for name, value in state.items()}
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise InputError(f"{path}: weight {broken} is not finite; download the file again")
    return tensors


def _load(path: Path) -> Any:
    """Return what a file of torch.save holds, if that is nothing but tensors and plain values.

    Raises:
        InputError: No such file, or it holds more, is damaged, or has another format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one about TorchScript, before the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no file {path}; {_EXPECTED}") from None
    except pickle.UnpicklingError:
        reason = "because it is damaged or holds more than tensors, such as code; nothing of it was run"
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        detail = " ".join(str(error).split()) or type(error).__name__
        if "TorchScript" in detail:
            reason = "because it is a TorchScript program; nothing of it was run"
        elif "legacy .tar" in detail:
            reason = "because its format, of PyTorch before 2017, may hold code; nothing of it was run"
        else:
            raise InputError(f"{path} is not a checkpoint of torch ({detail[:200]}); {_EXPECTED}") from None
    raise InputError(f"{path} is refused, {reason}; {_EXPECTED}")
