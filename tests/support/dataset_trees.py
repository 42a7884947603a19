"""Small folder trees in the layouts of the data sets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from edge.simulation.world import World

WIDTH, HEIGHT = 64, 48


def write_frame(path: Path, index: int) -> None:
    """Write a frame whose brightness encodes its index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 10 * index + 5, np.uint8))


def write_density(path: Path, row: int, column: int, height: int = HEIGHT) -> None:
    """Write an 8-bit density map with a peak at (row, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :WIDTH]
    peak = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 50)
    cv2.imwrite(str(path), np.rint(255 * peak).astype(np.uint8))


def write_fixations(path: Path, points: Sequence[tuple[int, int]], radius: int = 0) -> None:
    """Write a fixation map of (row, column) pixels, or of squares around them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for row, column in points:
        image[row - radius : row + radius + 1, column - radius : column + radius + 1] = 255
    cv2.imwrite(str(path), image)


def write_video(path: Path, frames: int, codec: str = "MJPG") -> None:
    """Write a video whose frames encode their index by their brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (WIDTH, HEIGHT)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 30, size)
    for index in range(frames):
        writer.write(np.full((HEIGHT, WIDTH, 3), (10 * index + 5) % 256, np.uint8))
    writer.release()


def corrupt_frames(path: Path, indices: Collection[int]) -> None:
    """Overwrite the data of some frames of an AVI with zeros; its index and its other frames stay valid."""
    data = bytearray(path.read_bytes())
    offset, index = data.index(b"movi") + 4, 0
    while data[offset : offset + 4] == b"00dc":
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        if index in indices:
            data[offset + 8 : offset + 8 + size] = bytes(size)
        offset, index = offset + 8 + size + size % 2, index + 1
    path.write_bytes(data)


def write_dhf1k(root: Path, numbers: Sequence[int], frames: int = 4, labelled: bool = True) -> Path:
    """Write videos and labels in DHF1K's layout; each clip has its own positions of gaze."""
    for clip_index, number in enumerate(numbers):
        write_video(root / "video" / f"{number:03d}.AVI", frames)
        labels = root / "annotation" / f"{number:04d}"
        for index in range(frames if labelled else 0):
            row, column = 8 + 9 * clip_index, 10 + 5 * index
            write_density(labels / "maps" / f"{index + 1:04d}.png", row, column)
            write_fixations(labels / "fixation" / f"{index + 1:04d}.png", [(row, column), (row + 1, column)])
    return root


def write_boxes(root: Path, names: Sequence[str], frames: int = 4) -> Path:
    """Write sequences of frames with a moving box."""
    for name in names:
        for index in range(frames):
            write_frame(root / name / "frames" / f"{index + 1:06d}.jpg", index)
        lines = [f"{10 + index},12,8,6" for index in range(frames)]
        (root / name / "boxes.txt").write_text("\n".join(lines) + "\n")
    return root


def brightness(index: int) -> int:
    """Return the brightness of the left half of a frame of `write_ucf_sports`."""
    return 6 * index + 5


def write_ucf_sports(root: Path, clips: int = 1, frames: int = 40) -> Path:
    """Write UCF-Sports's layout; the brightness of the left half of a frame encodes its index."""
    for clip in range(clips):
        folder = root / "training" / f"c-{clip}"
        for kind in ("images", "maps"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(frames):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[:, : WIDTH // 2] = brightness(index)
            cv2.imwrite(str(folder / "images" / f"{index:03d}.png"), image)
            write_density(folder / "maps" / f"{index:03d}.png", 24, 8 + index)
    return root


def write_simulated_video(path: Path, seed: int, size: tuple[int, int], frames: int, fps: float = 30) -> None:
    """Write a video of a simulated scene; `size` is (width, height)."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    world = World(seed, *size, fps)
    for index in range(frames):
        writer.write(world.frame(index).image)
    writer.release()
