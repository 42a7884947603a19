from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import cc
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.sources.factory import open_source
from edge.sources.image_folder import choose_scale


def test_folder_is_read_in_natural_order(folder: Path, flight: np.ndarray) -> None:
    source = open_source(str(folder))
    assert source.length == 12
    for frame, image in zip(source, flight, strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_invalid_folder_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="has no images"):
        open_source(str(tmp_path / "none"))
    cv2.imwrite(str(folder / "7.png"), np.zeros((90, 160, 3), np.uint8))
    with pytest.raises(InputError, match=r"7\.png is 160x90, the first image is 320x180"):
        list(open_source(str(folder)))
    (folder / "7.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"7\.png cannot be read"):
        list(open_source(str(folder)))


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((1280, 720), (256, 256), 2),
        ((3840, 2160), (256, 256), 8),
        ((1282, 722), (256, 256), 2),
        ((1281, 720), (256, 256), 1),
        ((1280, 720), (1024, 576), 1),
        ((1280, 720), None, 1),
    ],
)
def test_scale_is_no_larger_than_the_halvings_of_the_preprocessing(
    size: tuple[int, int], min_size: tuple[int, int] | None, expected: int
) -> None:
    assert choose_scale(*size, min_size) == expected
    if min_size == (256, 256):
        prepare = Preprocessing(64, 64)
        assert prepare.min_source_size == min_size
        assert expected <= 2 ** prepare.count_halvings(*size)
    assert Preprocessing(64, 64, alignment=Alignment(0.3)).min_source_size == (1024, 576)


def test_jpegs_decoded_smaller_give_nearly_the_same_maps(flight: np.ndarray, tmp_path: Path) -> None:
    large = [cv2.resize(frame, (1280, 720), interpolation=cv2.INTER_CUBIC) for frame in flight[:6]]
    for index, frame in enumerate(large):
        cv2.imwrite(str(tmp_path / f"{index}.{'png' if index == 5 else 'jpg'}"), frame)
    model = SaliencyModel("skd-64", "fp32", 1)
    prepare = model.release.preprocessing
    full_size, reduced = (
        list(open_source(str(tmp_path), min_size)) for min_size in (None, prepare.min_source_size)
    )
    assert [frame.scale for frame in reduced] == [2, 2, 2, 2, 2, 1]  # a PNG cannot be decoded smaller
    assert {(frame.width, frame.height) for frame in (*full_size, *reduced)} == {(1280, 720)}
    differences = [
        np.sqrt(np.mean((prepare.resize(a.image).astype(float) - prepare.resize(b.image)) ** 2))
        for a, b in zip(full_size, reduced, strict=True)
    ]
    assert max(differences) < 1.0  # grey levels, root mean square
    maps = [
        compute_clip_maps(model, [frame.image for frame in frames])  # type: ignore[arg-type]
        for frames in (full_size, reduced)
    ]
    model.close()
    assert min(cc(a, b) for a, b in zip(*maps, strict=True)) > 0.99
