"""Makes the picture of reference/world.md, one frame of each kind of scene: `make pictures`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge.simulation.world import World

PICTURE = Path(__file__).parent / "images" / "world-kinds.jpg"
WIDTH, HEIGHT = 240, 135
COLUMNS, GAP, TITLE = 5, 6, 20
FRAME = 20
SEEDS = {
    "plain": 6,
    "wake": 6,
    "surf": 26,
    "harbour": 5,
    "coast": 6,
    "town": 1,
    "powerline": 3,
    "roadworks": 29,
    "crowd": 5,
    "wildlife": 35,
    "low-sun": 8,
    "night": 8,
    "thermal": 31,
    "sky": 3,
    "noise": 4,
}
"""Scene that is shown of each kind. The mixtures of kinds are not shown."""
JPEG_QUALITY = 72


def panel(kind: str) -> np.ndarray:
    """Return a frame of a kind below its name."""
    frame = World(SEEDS[kind], WIDTH, HEIGHT, kind=kind).frame(FRAME).image
    title = np.full((TITLE, WIDTH, 3), 255, np.uint8)
    cv2.putText(title, kind, (1, TITLE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([title, frame])


def main() -> None:
    """Make the contact sheet."""
    panels = [panel(kind) for kind in SEEDS]
    height = panels[0].shape[0]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    rows = []
    for first in range(0, len(panels), COLUMNS):
        row = [part for picture in panels[first : first + COLUMNS] for part in (picture, gap)]
        rows.append(np.hstack(row[:-1]))
    cv2.imwrite(str(PICTURE), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    print(f"{PICTURE.name}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
