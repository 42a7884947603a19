from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import find_damage
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import cc
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.sources.factory import open_source
from edge.sources.image_folder import choose_scale, natural_sort_key
from trainer.datasets.image_sequences import ImageFolderSequence


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
    (tmp_path / "none" / "7.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"has no image that can be read.*7\.png \(damaged or too large\)"):
        open_source(str(tmp_path / "none"))


def test_small_file_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height = 16_400, 16_400
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + width // 8) * height)))
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    program = f"import edge; edge.open_source({str(tmp_path)!r})"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "has no image that can be read (1 file left out: 0.png (damaged or too large))" in outcome.stderr


@pytest.mark.parametrize("damaged", [0, 7, 11])
def test_damaged_image_is_left_out_and_named(damaged: int, folder: Path) -> None:
    (folder / f"{damaged}.png").write_bytes(b"not a picture")
    source = open_source(str(folder))
    assert [frame.index for frame in source] == [index for index in range(12) if index != damaged]
    assert find_damage(source) == (f"{folder}: 1 file left out: {damaged}.png (damaged or too large)",)


def test_entries_that_are_no_images_are_left_out_and_named(folder: Path) -> None:
    os.mkfifo(folder / "3a.png")
    (folder / "4a.PNG").mkdir()
    (folder / "5a.jpg").symlink_to(folder / "missing.jpg")
    animated = b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(20)
    for name, data in (("6a.HEIC", b"x"), ("7a.gif", b"GIF89a"), ("8a.avif", b"x"), ("9a.webp", animated)):
        (folder / name).write_bytes(data)
    for name in ("notes.txt", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    faults: dict[Path, str] = {}
    sequence, source = ImageFolderSequence(folder, faults), open_source(str(folder))
    assert len(list(source)) == len(sequence) == 12
    (damage,) = find_damage(source)
    assert (
        "7 files left out: 3a.png (no regular file), 4a.PNG (a folder), 5a.jpg (a link to a missing" in damage
    )
    assert {path.name: reason.split(":")[0] for path, reason in faults.items()} == {
        "3a.png": "no regular file",
        "4a.PNG": "a folder",
        "5a.jpg": "a link to a missing file",
        "6a.HEIC": "HEIC",
        "7a.gif": "GIF",
        "8a.avif": "AVIF",
        "9a.webp": "animated WebP",
    }


def test_folder_of_other_pictures_only_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"has no images.*a\.heic \(HEIC: convert it to JPEG or PNG\)"):
        open_source(str(tmp_path))


def test_names_with_strange_digits_are_sorted() -> None:
    names = ["²", "a10", "a9", "a٣", "a" + "1" * 5000, "a" + "0" * 5000 + "2", "a1b", "1", "x²1"]
    order = sorted((Path(name) for name in names), key=natural_sort_key)
    digits = [str(path) for path in order if str(path)[0] == "a" and str(path)[-1] in "0129"]
    assert digits == ["a" + "0" * 5000 + "2", "a9", "a10", "a" + "1" * 5000]


@pytest.mark.parametrize("suffix", ["tiff", "png"])
def test_thermal_images_keep_their_range_over_the_clip(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(10):
        counts = np.full((120, 160), 7000, np.uint16) + (np.arange(160) * 2).astype(np.uint16)
        cv2.circle(counts, (40 + 3 * index, 50), 10, 9000 + 20 * index, -1)
        cv2.imwrite(str(tmp_path / f"{index}.{suffix}"), counts)
    frames = list(open_source(str(tmp_path)))
    trained = [image for _, image in ImageFolderSequence(tmp_path, {}).read(0, 10)]
    for frame, image in zip(frames, trained, strict=True):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.image.shape == (120, 160, 3)
        assert frame.image[0, 0].max() < 10
        assert frame.image[50, 40 + 3 * frame.index].min() > 220
    assert len({int(frame.image[0, 150, 0]) for frame in frames}) == 1  # the background does not flicker
    monkeypatch.setenv("AEROGAZE_RANGE", "7000,7200")
    clipped = next(iter(open_source(str(tmp_path)))).image[0, :, 0]
    np.testing.assert_allclose(clipped, np.clip(np.arange(160) * 2 * 255 / 200, 0, 255), atol=0.51)
    monkeypatch.setenv("AEROGAZE_RANGE", "9,1")
    with pytest.raises(InputError, match="expected auto, or LOW,HIGH"):
        open_source(str(tmp_path))


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
