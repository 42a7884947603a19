"""TinyHD checkpoints in the published layout: the authors' maps, every kind of file, refused files.

The published files are not ours to ship. Tests that need them take their folder from `TINYHD_WEIGHTS`.
"""

from __future__ import annotations

import io
import itertools
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edge.core.errors import InputError
from tests.support.published_tinyhd import find_weights, formula_clip, write_checkpoint
from trainer.models.mobilenet3d import REDUCTIONS, Reduction
from trainer.models.published.tinyhd_checkpoint import load_tinyhd_checkpoint, published_keys
from trainer.models.student import Student, TinyHDSettings, load_student
from trainer.models.tinyhd import DECODERS, LEVELS, MAPS, TinyHD, Variant

ORDERS = [names for size in (1, 2, 3) for names in itertools.permutations(DECODERS, size)]

pytestmark = pytest.mark.usefixtures("one_thread")

Maps = NDArray[np.float32]


@pytest.fixture
def reference(real: Path) -> dict[str, Maps]:
    """Return the maps that the authors' code made."""
    with np.load(real / "tinyhd_reference.npz") as file:
        return dict(file)


def person12_clip(real: Path) -> Tensor:
    """Return the frames 1 to 16."""
    paths = [real / "uav" / "person12" / "frames" / f"{index:06}.jpg" for index in range(1, 17)]
    return resize_like_the_authors(np.stack([np.asarray(cv2.imread(str(path))) for path in paths]))


def resize_like_the_authors(frames: NDArray[np.generic]) -> Tensor:
    """Return BGR frames (T, H, W, 3) as a clip, resized bilinearly, without a filter against aliasing."""
    rgb = frames[..., ::-1].transpose(0, 3, 1, 2)
    tensor = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1)
    resized = F.interpolate(tensor, size=(192, 256), mode="bilinear", align_corners=False)
    return resized.transpose(0, 1)[None]


@pytest.mark.parametrize(("variant", "stride"), [("S", 8), ("M", 16)])
def test_published_weights_give_the_maps_of_the_authors(
    real: Path, reference: dict[str, Maps], variant: Variant, stride: int
) -> None:
    settings, network = load_tinyhd_checkpoint(find_weights(variant))
    assert settings == TinyHDSettings(variant, 4)
    assert not network.training
    with torch.inference_mode():
        formula = network(torch.from_numpy(formula_clip())).fused[0, :, ::stride, ::stride].numpy()
        maps = network(person12_clip(real))
    expected = reference[f"formula_{variant}_grid{stride}_f32"].reshape(formula.shape)
    np.testing.assert_allclose(formula, expected, atol=1e-5, rtol=0)
    fused = maps.fused[0, :, ::8, ::8].numpy()
    of_clip = reference["S_grid8_f32"][15:16] if variant == "S" else reference["M_grid8_f32"][0]
    np.testing.assert_allclose(fused, of_clip, atol=1e-5, rtol=0)
    d1 = torch.stack([maps.parts[name][0] for name in LEVELS])
    for name, part in {"d1": d1, "d2": maps.parts["d2"], "d3": maps.parts["d3"]}.items():
        grid = part[..., ::stride, ::stride].numpy()
        np.testing.assert_allclose(
            grid, reference[f"{variant}_{name}_grid{stride}_f32"], atol=1e-5, rtol=0, err_msg=name
        )


def test_published_weights_score_as_measured_on_a_real_clip(real: Path) -> None:
    """Ten frames of UCF-Sports behind copies of the first, scored by plain definitions without blur."""
    clip = real / "ucf-sports" / "testing" / "Diving-Side-001"
    images, densities, fixations = (
        [np.asarray(cv2.imread(str(path))) for path in sorted((clip / folder).iterdir())]
        for folder in ("images", "maps", "fixation")
    )
    _, network = load_tinyhd_checkpoint(find_weights("M"))
    frames = resize_like_the_authors(np.stack([*images[:1] * 6, *images]))
    with torch.inference_mode():
        maps = network(frames).fused[0, 6:].numpy()
    ccs, scores = [], []
    for saliency, density, fixation in zip(maps, densities, fixations, strict=True):
        size = density.shape[1], density.shape[0]
        resized = cv2.resize(saliency, size, interpolation=cv2.INTER_CUBIC)
        ccs.append(np.corrcoef(resized.ravel(), density[:, :, 0].ravel())[0, 1])
        scores.append(((resized - resized.mean()) / resized.std())[fixation[:, :, 0] > 0].mean())
    assert np.mean(ccs) == pytest.approx(0.603, abs=5e-4)
    assert np.mean(scores) == pytest.approx(3.25, abs=5e-3)


def assert_equal_weights(network: TinyHD, expected: TinyHD) -> None:
    loaded = network.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("variant", MAPS)
@pytest.mark.parametrize(
    ("rc", "order"), [*((rc, tuple(DECODERS)) for rc in REDUCTIONS), *((8, order) for order in ORDERS)]
)
def test_variant_reduction_and_decoders_are_read_from_the_file(
    tmp_path: Path, variant: Variant, rc: Reduction, order: tuple[str, ...]
) -> None:
    network = TinyHD(variant, rc, order)
    path = write_checkpoint(tmp_path / "c.pth", network, order)
    settings, loaded = load_tinyhd_checkpoint(path, 64, 96)
    assert settings == TinyHDSettings(variant, rc, tuple(sorted(order)), 64, 96)
    assert_equal_weights(loaded, network)


def test_maps_of_d1_may_be_mixed_last(tmp_path: Path) -> None:
    network = TinyHD("M", 8)
    path = write_checkpoint(tmp_path / "c.pth", network, ["D1", "D2", "D3"], ["D2", "D3", "D1"])
    assert_equal_weights(load_tinyhd_checkpoint(path, d1_last=True)[1], network)
    assert not torch.equal(load_tinyhd_checkpoint(path)[1].fusion.weight, network.fusion.weight)


def test_keys_are_those_of_the_published_files() -> None:
    keys = published_keys(TinyHD("S", 8), ["D1", "D2", "D3"])
    published = list(keys.values())
    assert len(set(published)) == len(published) == 978  # 980 with the mixing convolution
    assert sum(key.startswith("encoder.") for key in published) == 312
    assert published[:2] == ["encoder.encoder.0.0.weight", "encoder.encoder.0.1.weight"]
    for key in (
        "encoder.encoder.1.conv.0.0.weight", "encoder.encoder.1.conv.1.weight",
        "encoder.encoder.1.conv.2.running_var", "encoder.encoder.17.conv.3.bias", "encoder.encoder.18.1.bias",
        "aggregator.aggregate_adapter.36.conv.1.0.weight",
        "aggregator.aggregate_adapter.0.conv.3.running_mean",
    ):  # fmt: skip
        assert key in published


def test_student_of_a_checkpoint_is_stored_and_loaded(tmp_path: Path) -> None:
    settings, network = load_tinyhd_checkpoint(
        write_checkpoint(tmp_path / "c.pth", TinyHD("S", 8), ["D1", "D2", "D3"])
    )
    Student("imported", settings, network, {}).save(tmp_path / "s.safetensors")
    student = load_student(tmp_path / "s.safetensors")
    assert isinstance(student.network, TinyHD)
    assert_equal_weights(student.network, network)


class _CreatesFile:
    """Object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_checkpoint_with_code_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    path, created = tmp_path / "c.pth", tmp_path / "created"
    torch.save({"student_model": {"a": torch.zeros(1)}, "other": _CreatesFile(created)}, path)
    with pytest.raises(InputError, match="more than tensors, such as code; nothing of it was run") as caught:
        load_tinyhd_checkpoint(path)
    assert not created.exists()
    path.write_bytes(pickle.dumps(_CreatesFile(created)))
    with pytest.raises(InputError):
        load_tinyhd_checkpoint(path)
    assert not created.exists()
    assert "\n" not in str(caught.value)


def test_other_containers_of_code_are_refused_and_nothing_is_run(tmp_path: Path) -> None:
    network, created = TinyHD("S", 8, ["D2"]), tmp_path / "created"
    paths = {name: tmp_path / f"{name}.pth" for name in ("legacy", "script", "tar", "twice", "more")}
    torch.save({"x": _CreatesFile(created)}, paths["legacy"], _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(paths["script"]))
    with tarfile.open(paths["tar"], "w") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(_CreatesFile(created))
            (member := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for name, file in (("twice", "twice/data.pkl"), ("more", "more/other.pkl")):
        write_checkpoint(paths[name], network, ["D2"])
        with warnings.catch_warnings(), zipfile.ZipFile(paths[name], "a") as archive:
            warnings.simplefilter("ignore")  # the name is there twice
            archive.writestr(file, pickle.dumps(_CreatesFile(created)))
    for name, message in {
        "legacy": "more than tensors, such as code; nothing of it was run",
        "script": "it is a TorchScript program; nothing of it was run",
        "tar": "its format, of PyTorch before 2017, may hold code; nothing of it was run",
        "twice": "more than tensors, such as code; nothing of it was run",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            load_tinyhd_checkpoint(paths[name])
        assert "\n" not in str(caught.value)
    assert_equal_weights(load_tinyhd_checkpoint(paths["more"])[1], network)  # nothing reads the other file
    assert not created.exists()


def test_file_that_does_not_fit_is_reported_in_one_line(tmp_path: Path) -> None:
    network = TinyHD("S", 8, ["D2"])
    tensors = torch.load(write_checkpoint(tmp_path / "c.pth", network, ["D2"]), weights_only=True)
    state = tensors["student_model"]
    stem = state["encoder.encoder.0.0.weight"]
    adapter = "aggregator.aggregate_adapter.0.conv.2.weight"
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "empty.pth").touch()
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, changed in (
        ("extra", {**state, "other": stem}),
        ("missing", {name: value for name, value in state.items() if name != adapter}),
        ("stem", {**state, "encoder.encoder.0.0.weight": stem.repeat(3, 1, 1, 1, 1)}),
        ("shape", {**state, "encoder.encoder.0.0.weight": stem[:, :, :2]}),
        ("adapter", {**state, adapter: state[adapter][:5]}),
        ("infinite", {**state, adapter: state[adapter] / 0}),
    ):
        torch.save({"student_model": changed}, tmp_path / f"{name}.pth")
    for name, message in {
        "none": "no file .*none.pth",
        "text": "text.pth",
        "empty": r"empty.pth is not a checkpoint of torch \(\w+",
        "list": "is not a state dict of tensors",
        "extra": "unknown tensor other",
        "missing": "does not fit TinyHD .it has no decoder",
        "stem": "the stem has 12 channels",
        "shape": "does not fit TinyHD .*size mismatch",
        "adapter": "no decoder starts with adapter 0, of 260 to 5 channels",
        "infinite": "aggregate_adapter.0.conv.2.weight is not finite",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            load_tinyhd_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
