"""Picture of the frame on which the maps of two graphs differ most."""

from __future__ import annotations

from pathlib import Path

import cv2
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edge.core.atomic_files import atomic_file, translate_write_errors
from export.compare.compare import WorstFrame

MAX_WIDTH_PX = 960


def write_picture(worst: WorstFrame, names: tuple[str, str], path: Path) -> None:
    """Write the frame, the map of A, the map of B and B - A side by side, as PNG.

    Args:
        worst: The frame and both maps.
        names: Titles of both maps.
        path: The file.

    Raises:
        InputError: If the file cannot be written.
    """
    image = worst.image
    scale = min(1.0, MAX_WIDTH_PX / image.shape[1])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:, :, ::-1]  # type: ignore[assignment]
    aspect = image.shape[0] / image.shape[1]
    figure = Figure(figsize=(14, 14 / 4 * aspect + 1.1), layout="constrained", dpi=110)
    low = min(float(worst.a.min()), float(worst.b.min()), 0.0)
    high = max(float(worst.a.max()), float(worst.b.max()), low + 1e-12)
    difference = worst.b - worst.a
    limit = max(float(abs(difference).max()), 1e-12)
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 0.06))
    axes = [figure.add_subplot(grid[0, column]) for column in range(4)]
    extent = (0, image.shape[1], image.shape[0], 0)
    axes[0].imshow(image)
    axes[0].set_title(f"frame {worst.index}")
    for ax, map_, name in zip(axes[1:3], (worst.a, worst.b), names, strict=True):
        map_image = ax.imshow(map_, cmap="inferno", vmin=low, vmax=high, extent=extent)
        ax.set_title(name)
    figure.colorbar(
        map_image, cax=figure.add_subplot(grid[1, 1:3]), orientation="horizontal", label="saliency"
    )
    difference_image = axes[3].imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=extent)
    axes[3].set_title(f"B - A, CC {worst.cc:.5f}")
    figure.colorbar(
        difference_image, cax=figure.add_subplot(grid[1, 3]), orientation="horizontal", ticks=MaxNLocator(4)
    )
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    with atomic_file(path) as pending, translate_write_errors(path):
        figure.savefig(pending, format="png")
