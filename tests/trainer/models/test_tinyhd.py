"""TinyHD's students, teacher, encoder and losses: sizes, shapes, weights and gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from trainer.losses.hierarchical import hierarchical_loss, kl
from trainer.models.complexity import multiply_accumulates
from trainer.models.hd2s import HD2S
from trainer.models.mobilenet3d import (
    REDUCTIONS,
    ImageNetScaling,
    MobileNet3D,
    Reduction,
    double_sides,
    double_time,
    group_means,
    pixel_shuffle_frames,
)
from trainer.models.student import parameter_count
from trainer.models.tinyhd import DECODERS, LEVELS, MAPS, SaliencyMaps, TinyHD, Variant

# Parameters in millions, and GMAC per clip of 16 frames at 192 x 256, of the authors' networks, rounded.
PUBLISHED: dict[tuple[Variant, Reduction], tuple[float, float]] = {
    ("S", 1): (3.94, 5.13), ("S", 2): (1.37, 3.35), ("S", 4): (0.51, 2.07),
    ("M", 1): (3.92, 7.22), ("M", 2): (1.37, 6.16), ("M", 4): (0.52, 3.56),
}  # fmt: skip
SUBSETS = [names for size in (1, 2, 3) for names in itertools.combinations(DECODERS, size)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def meta() -> Iterator[Tensor]:
    """Yield a clip on the meta device, on which networks compute only shapes."""
    with torch.device("meta"):
        yield torch.empty(1, 3, 16, 192, 256)


@pytest.mark.parametrize(("student", "published"), PUBLISHED.items())
def test_students_have_the_published_size_and_work(
    meta: Tensor, student: tuple[Variant, Reduction], published: tuple[float, float]
) -> None:
    network = TinyHD(*student)
    assert parameter_count(network) == pytest.approx(published[0] * 1e6, abs=0.005e6)
    assert multiply_accumulates(network, meta) == pytest.approx(published[1] * 1e9, abs=0.005e9)


@pytest.mark.parametrize(("variant", "parameters"), [("S", 513_121), ("M", 515_281)])
def test_students_at_rc_4_have_exactly_the_published_parameters(
    meta: Tensor, variant: Variant, parameters: int
) -> None:
    network = TinyHD(variant, 4)
    assert parameter_count(network) == parameters
    assert len(network.state_dict()) == 980


def test_teacher_has_the_published_size_and_work(meta: Tensor) -> None:
    network = HD2S()
    assert parameter_count(network) == pytest.approx(29.8e6, rel=0.02)
    assert multiply_accumulates(network, meta) == pytest.approx(22.0e9, rel=0.02)


@pytest.mark.parametrize(("coarse_times", "expected"), [(2, 2), (1, 1)])
def test_levels_of_the_encoder_have_the_shapes_of_the_paper(
    meta: Tensor, coarse_times: int, expected: int
) -> None:
    encoder = MobileNet3D(1, coarse_times)  # type: ignore[arg-type]
    shapes = [tuple(x.shape[1:]) for x in encoder(meta)]
    assert shapes == [(28, 8, 96, 128), (24, 4, 48, 64), (136, 2, 24, 32), (520, expected, 12, 16)]


def test_encoder_converts_the_scaling_to_that_of_imagenet() -> None:
    image = torch.randint(0, 256, (2, 3, 16, 4, 4)).float()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (image / 255 - mean.view(3, 1, 1, 1)) / deviation.view(3, 1, 1, 1)
    torch.testing.assert_close(ImageNetScaling()(image / 127.5 - 1), expected, atol=1e-5, rtol=1e-5)
    encoder = MobileNet3D(8)
    stem_inputs: list[Tensor] = []
    encoder.stem.register_forward_pre_hook(lambda module, inputs: stem_inputs.append(inputs[0]))
    encoder((image / 127.5 - 1).repeat(1, 1, 1, 8, 8))
    torch.testing.assert_close(stem_inputs[0][..., :4, :4], expected, atol=1e-5, rtol=1e-5)


def test_each_frame_is_shuffled_like_torch_pixel_shuffle() -> None:
    x = torch.rand(2, 8, 3, 4, 5)
    for t in range(3):
        assert torch.equal(pixel_shuffle_frames(x)[:, :, t], nn.PixelShuffle(2)(x[:, :, t]))


@pytest.mark.parametrize(
    ("rc", "channels"),
    [
        (1, (28, 24, 136, 520)), (2, (14, 12, 68, 260)), (4, (7, 6, 34, 130)),
        (8, (8, 12, 68, 260)),  # interpolated, because 24 / 8 = 3 channels cannot be shuffled
    ],
)  # fmt: skip
def test_levels_of_a_reduced_encoder_have_the_published_widths(
    meta: Tensor, rc: Reduction, channels: tuple[int, ...]
) -> None:
    encoder = MobileNet3D(rc)
    assert encoder.channels == channels
    assert tuple(x.shape[1] for x in encoder(meta)) == channels


def test_interpolation_keeps_the_corners_and_the_first_and_last_step() -> None:
    x = torch.rand(1, 2, 4, 3, 5)
    sides, times = double_sides(x), double_time(x)
    assert sides.shape == (1, 2, 4, 6, 10)
    torch.testing.assert_close(sides[..., [0, -1], :][..., [0, -1]], x[..., [0, -1], :][..., [0, -1]])
    torch.testing.assert_close(sides[..., 0, 1], x[..., 0, 0] + (x[..., 0, 1] - x[..., 0, 0]) * 4 / 9)
    assert times.shape == (1, 2, 8, 3, 5)
    torch.testing.assert_close(times[:, :, [0, -1]], x[:, :, [0, -1]])
    torch.testing.assert_close(times[:, :, 1], x[:, :, 0] + (x[:, :, 1] - x[:, :, 0]) * 3 / 7)
    assert torch.equal(double_time(x[:, :, :1]), x[:, :, :1].expand(-1, -1, 2, -1, -1))


@pytest.mark.parametrize(("height", "width"), [(192, 256), (96, 128)])
@pytest.mark.parametrize("rc", REDUCTIONS)
@pytest.mark.parametrize("variant", MAPS)
def test_maps_have_the_size_of_the_clip(
    meta: Tensor, variant: Variant, rc: Reduction, height: int, width: int
) -> None:
    maps = TinyHD(variant, rc)(meta[..., :height, :width])
    steps = {**dict.fromkeys(LEVELS, 1), "d2": MAPS[variant], "d3": MAPS[variant]}
    assert maps.fused.shape == (1, MAPS[variant], height, width)
    assert {name: tuple(part.shape) for name, part in maps.parts.items()} == {
        name: (1, n, height, width) for name, n in steps.items()
    }


def test_maps_of_the_teacher_have_the_names_of_those_of_d1(meta: Tensor) -> None:
    maps = HD2S()(meta)
    assert maps.fused.shape == (1, 1, 192, 256)
    assert list(maps.parts) == list(LEVELS)
    assert all(part.shape == (1, 1, 192, 256) for part in maps.parts.values())


@pytest.mark.parametrize("variant", MAPS)
@pytest.mark.parametrize("decoders", SUBSETS)
def test_subset_of_decoders_returns_its_maps(
    meta: Tensor, variant: Variant, decoders: tuple[str, ...]
) -> None:
    names = [name for decoder in decoders for name in {"D1": LEVELS, "D2": ("d2",), "D3": ("d3",)}[decoder]]
    maps = TinyHD(variant, 4, decoders)(meta)
    assert maps.fused.shape == (1, MAPS[variant], 192, 256)
    assert list(maps.parts) == names


@pytest.mark.parametrize("variant", MAPS)
def test_maps_are_between_zero_and_one_and_depend_on_the_clip(variant: Variant) -> None:
    network = TinyHD(variant, 8)
    with torch.inference_mode():
        first, second = network(torch.randn(2, 3, 16, 32, 64)).fused
    assert 0 < first.min() < first.max() < 1
    assert not torch.allclose(first, second)


def test_maps_of_the_teacher_are_between_zero_and_one() -> None:
    with torch.inference_mode():
        maps = HD2S().eval()(torch.randn(1, 3, 16, 32, 32))
    assert all(part.min() > 0 and part.max() < 1 for part in (maps.fused, *maps.parts.values()))


@pytest.mark.parametrize("shape", [(1, 3, 15, 32, 32), (1, 3, 16, 32, 30), (3, 16, 32, 32)])
def test_clip_with_wrong_shape_is_rejected(meta: Tensor, shape: tuple[int, ...]) -> None:
    for network in (TinyHD("S", 8), HD2S()):
        with pytest.raises(InputError, match=r"expected \(N, 3, 16, H, W\) with sides that are multiples of"):
            network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("variant", "rc", "decoders"), [("L", 1, ["D1"]), ("S", 3, ["D1"]), ("S", 1, []), ("S", 1, ["D4"])]
)
def test_unknown_student_is_rejected(variant: Variant, rc: Reduction, decoders: list[str]) -> None:
    with pytest.raises(InputError, match="expected S or M, rc 1, 2, 4, 8, one or more of D1, D2, D3"):
        TinyHD(variant, rc, decoders)


def test_group_means_match_values_by_hand() -> None:
    weight = torch.tensor([[1.0, 3.0], [5.0, 7.0], [0.0, 2.0], [4.0, 2.0]])
    assert torch.equal(group_means(weight, (2, 1)), torch.tensor([[4.0], [2.0]]))
    assert torch.equal(group_means(torch.tensor([1.0, 3.0, 5.0, 7.0]), (2,)), torch.tensor([2.0, 6.0]))
    depthwise = torch.rand(4, 1, 3, 3, 3)
    assert torch.equal(group_means(depthwise, (2, 1, 3, 3, 3))[0], (depthwise[0] + depthwise[1]) / 2)


def _published(encoder: MobileNet3D) -> dict[str, Tensor]:
    """Return random weights in the order and shapes of torchvision's MobileNetV2, which is not installed."""
    state = {
        f"features.{name}": torch.rand(*tensor.shape[:2], *tensor.shape[3:]) if tensor.dim() else tensor
        for name, tensor in encoder.state_dict().items()
    }
    return {**state, "classifier.1.weight": torch.rand(1000, 1280), "classifier.1.bias": torch.rand(1000)}


@pytest.mark.parametrize("rc", REDUCTIONS)
def test_imagenet_weights_are_copied_along_time_and_averaged_in_groups(tmp_path: Path, rc: Reduction) -> None:
    published = _published(MobileNet3D())
    torch.save(published, tmp_path / "mobilenet_v2.pth")
    encoder = MobileNet3D(rc, coarse_times=1)
    encoder.load_imagenet(tmp_path / "mobilenet_v2.pth")
    state = encoder.state_dict()
    stem, flat = state["stem.0.weight"], published["features.stem.0.weight"]
    for t in range(3):
        assert torch.allclose(stem[0, :, t], flat[:rc].mean(0))
    for name, value in published.items():
        loaded = state.get(name.removeprefix("features."))
        if loaded is not None and loaded.dim():
            assert torch.allclose(loaded.mean(), value.mean(), atol=1e-3), name


def test_narrow_encoder_starts_from_the_means_of_a_wide_one() -> None:
    full, half = MobileNet3D(1), MobileNet3D(2)
    half.load_averaged(full)
    name = "scales.1.0.layers.0.weight"  # expands 16 channels to 96
    original, reduced = full.state_dict()[name], half.state_dict()[name]
    assert reduced.shape == (48, 8, 1, 1, 1)
    assert reduced[3, 5].item() == pytest.approx(original[6:8, 10:12].mean().item())


def test_weights_that_do_not_fit_are_reported(tmp_path: Path) -> None:
    encoder, path = MobileNet3D(8), tmp_path / "weights.pth"
    with pytest.raises(InputError, match="no weights at"):
        encoder.load_imagenet(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a state dict"):
        encoder.load_imagenet(path)
    torch.save({"weight": torch.rand(3)}, path)
    with pytest.raises(InputError, match="has 1 tensors before its classifier"):
        encoder.load_imagenet(path)
    torch.save(_published(MobileNet3D(2)), path)
    with pytest.raises(
        InputError, match=r"features.stem.0.weight is \(16, 3, 3, 3\), .* needs \(32, 3, 3, 3\)"
    ):
        encoder.load_imagenet(path)


def test_kl_matches_value_by_hand() -> None:
    target, prediction = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[0.2, 0.6]]]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl(target, prediction).item() == pytest.approx(expected, abs=1e-5)
    assert kl(prediction * 3, prediction).item() == pytest.approx(0, abs=1e-6)


def test_kl_of_empty_maps_is_finite() -> None:
    empty, maps = torch.zeros(2, 3, 4, 4), torch.rand(2, 3, 4, 4, requires_grad=True)
    kl(empty, maps).backward()  # type: ignore[no-untyped-call]
    assert kl(empty, maps).item() == 0
    assert maps.grad is not None
    assert not maps.grad.any()
    empty_prediction = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = kl(maps, empty_prediction)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value)
    assert empty_prediction.grad is not None
    assert torch.isfinite(empty_prediction.grad).all()


def _maps(names: list[str], steps: int, single: int) -> SaliencyMaps:
    """Return random leaf maps; each gets a gradient only if the loss depends on it."""

    def random_map(n: int) -> Tensor:
        return torch.rand(2, n, 8, 8, requires_grad=True)

    return SaliencyMaps(
        random_map(steps), {name: random_map(single if name in LEVELS else steps) for name in names}
    )


ALL_PARTS = [*LEVELS, "d2", "d3"]


def _parts_with_gradient(student: SaliencyMaps, loss: Tensor) -> set[str]:
    loss.backward()  # type: ignore[no-untyped-call]
    return {name for name, part in student.parts.items() if part.grad is not None}


def test_hierarchical_loss_is_the_sum_of_its_terms() -> None:
    student, teacher, truth = _maps(ALL_PARTS, 1, 1), _maps([*LEVELS], 1, 1), torch.rand(2, 1, 8, 8)
    expected = kl(truth, student.fused) + kl(teacher.fused, student.fused)
    expected = expected + sum(kl(teacher.parts[name], student.parts[name]) for name in LEVELS)
    torch.testing.assert_close(hierarchical_loss(student, teacher, truth), expected)
    expected = expected + 0.5 * (kl(truth, student.parts["d2"]) + kl(truth, student.parts["d3"]))
    torch.testing.assert_close(hierarchical_loss(student, teacher, truth, supervision=0.5), expected)


@pytest.mark.parametrize("steps", MAPS.values())
def test_parts_with_a_loss_term_depend_on_teacher_and_supervision(steps: int) -> None:
    teacher, truth = _maps([*LEVELS], steps, steps), torch.rand(2, steps, 8, 8)
    student = _maps(ALL_PARTS, steps, 1)
    assert _parts_with_gradient(student, hierarchical_loss(student, teacher, truth)) == set(LEVELS)
    assert teacher.fused.grad is None
    assert _parts_with_gradient(student, hierarchical_loss(student, teacher, truth, 0.5)) == set(ALL_PARTS)
    student, assistant = _maps(ALL_PARTS, steps, 1), _maps(ALL_PARTS, steps, 1)
    assert _parts_with_gradient(student, hierarchical_loss(student, assistant, truth)) == set(ALL_PARTS)
    student = _maps(["d2"], steps, 1)
    assert _parts_with_gradient(student, hierarchical_loss(student, teacher, truth)) == set()


def test_maps_of_the_teacher_are_averaged_over_time_for_d1() -> None:
    student, teacher = _maps(["x2"], 16, 1), _maps(["x2"], 16, 16)
    empty = torch.zeros(2, 16, 8, 8)
    expected = kl(teacher.fused, student.fused)
    expected = expected + kl(teacher.parts["x2"].mean(1, keepdim=True), student.parts["x2"])
    torch.testing.assert_close(hierarchical_loss(student, teacher, empty), expected)


def test_clip_without_label_learns_from_the_teacher_alone() -> None:
    student, teacher = _maps(ALL_PARTS, 1, 1), _maps([*LEVELS], 1, 1)
    truth = torch.rand(2, 1, 8, 8)
    truth[1] = 0
    difference = hierarchical_loss(student, teacher, truth, 0.5) - hierarchical_loss(
        student, teacher, truth * 0, 0.5
    )
    maps = student.fused, student.parts["d2"], student.parts["d3"]
    labelled = [weight * kl(truth[:1], m[:1]) for weight, m in zip((1, 0.5, 0.5), maps, strict=True)]
    torch.testing.assert_close(difference, sum(labelled) / 2)


@pytest.mark.parametrize("variant", MAPS)
def test_every_parameter_has_a_gradient(variant: Variant) -> None:
    network, steps = TinyHD(variant, 8), MAPS[variant]
    teacher = SaliencyMaps(
        torch.rand(2, steps, 32, 64), {name: torch.rand(2, steps, 32, 64) for name in LEVELS}
    )
    student = network(torch.randn(2, 3, 16, 32, 64))
    hierarchical_loss(student, teacher, torch.rand(2, steps, 32, 64)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
