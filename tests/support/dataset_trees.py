"""Small trees in the layouts of the data sets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 64, 48


def picture(path: Path, index: int) -> None:
    """Write a frame that tells its index by its brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 10 * index + 5, np.uint8))


def density(path: Path, row: int, column: int, height: int = HEIGHT) -> None:
    """Write an 8-bit density map about a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :WIDTH]
    bump = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 50)
    cv2.imwrite(str(path), np.rint(255 * bump).astype(np.uint8))


def fixations(path: Path, points: Sequence[tuple[int, int]], radius: int = 0) -> None:
    """Write a map of (row, column) pixels, or of squares about them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, column in points:
        image[row - radius : row + radius + 1, column - radius : column + radius + 1] = 255
    cv2.imwrite(str(path), image)


def film(path: Path, frames: int, codec: str = "MJPG") -> None:
    """Write a video whose frames tell their index by their brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (WIDTH, HEIGHT)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 30, size)
    for index in range(frames):
        writer.write(np.full((HEIGHT, WIDTH, 3), (10 * index + 5) % 256, np.uint8))
    writer.release()


def spoil(path: Path, indices: Collection[int]) -> None:
    """Overwrite the data of some frames of an AVI with zeros; its index and its other frames stay whole."""
    data = bytearray(path.read_bytes())
    at, index = data.index(b"movi") + 4, 0
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if index in indices:
            data[at + 8 : at + 8 + size] = bytes(size)
        at, index = at + 8 + size + size % 2, index + 1
    path.write_bytes(data)


def dhf1k(root: Path, numbers: Sequence[int], frames: int = 4, labelled: bool = True) -> Path:
    """Write videos and labels, each clip looking at places of its own."""
    for place, number in enumerate(numbers):
        film(root / "video" / f"{number:03d}.AVI", frames)
        labels = root / "annotation" / f"{number:04d}"
        for index in range(frames if labelled else 0):
            row, column = 8 + 9 * place, 10 + 5 * index
            density(labels / "maps" / f"{index + 1:04d}.png", row, column)
            fixations(labels / "fixation" / f"{index + 1:04d}.png", [(row, column), (row + 1, column)])
    return root


def boxes(root: Path, names: Sequence[str], frames: int = 4) -> Path:
    """Write sequences of frames with a box that moves."""
    for name in names:
        for index in range(frames):
            picture(root / name / "frames" / f"{index + 1:06d}.jpg", index)
        lines = [f"{10 + index},12,8,6" for index in range(frames)]
        (root / name / "boxes.txt").write_text("\n".join(lines) + "\n")
    return root
