"""Makes the pictures of how-to/is-the-map-right.md: `make pictures`. Needs Chromium."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

import edge
from edge.metrics.saliency import cc
from edge.simulation.world import World
from edge.sinks.files.overlay_video import blend_heat_map, draw_overlay
from tests.support.chromium import Chromium
from trainer.annotation.clip import create_clip
from trainer.annotation.server import AnnotationServer
from trainer.data.gaze_model import gaze_density, target_saliency

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 640, 360
SHOWN = (480, 270)
GAP = 8
CASES = {"map-right.jpg": (42, 12), "map-wrong.jpg": (5, 16)}
"""Seed of the flight and frame, by picture."""
EMPTY, EMPTY_FRAMES = "map-empty.jpg", 6
PAGE, PAGE_FRAMES, PAGE_STEP, PAGE_BOXES = "annotate.jpg", 96, 5, 8
"""Picture of the annotation page: the clip's length, the step, and the number of boxes that are drawn."""
JPEG_QUALITY = 80


def empty_frame() -> np.ndarray:
    """Return a frame of calm water: a slow gradient and weak ripples, with no target."""
    random = np.random.default_rng(0)
    ripples = cv2.GaussianBlur(random.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 3, sigmaY=1)
    level = np.linspace(150, 105, HEIGHT)[:, None] + 4 * ripples / ripples.std()
    return np.uint8(np.clip(level[..., None] * [1.0, 0.85, 0.62], 0, 255))


def save(name: str, panels: list[np.ndarray]) -> None:
    """Write panels side by side as JPEG."""
    gap = np.full((SHOWN[1], GAP, 3), 255, np.uint8)
    shown = [cv2.resize(panel, SHOWN, interpolation=cv2.INTER_AREA) for panel in panels]
    row = np.hstack([shown[0], gap, shown[1]])
    cv2.imwrite(str(IMAGES / name), row, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    print(f"{name}: {(IMAGES / name).stat().st_size // 1000} kB")


def annotation_page(folder: Path) -> None:
    """Write a screenshot of the annotation page with the boxes of a flight's main target."""
    world = World(42, WIDTH, HEIGHT)
    source = edge.open_source(f"synthetic:42:{WIDTH}x{HEIGHT}:{PAGE_FRAMES}")
    clip = create_clip(folder / "flight", "flight.mp4", source, PAGE_FRAMES, lambda: None)
    for index in range(0, PAGE_BOXES * PAGE_STEP, PAGE_STEP):
        target = max(world.targets(index), key=lambda target: target_saliency(target, WIDTH, HEIGHT))
        x, y, width, height = map(float, target.box)
        clip.annotate(index, (x, y, width, height))
    browser = Chromium(folder / "chromium")
    try:
        with closing(AnnotationServer(clip, PAGE_STEP)) as server:
            browser.screen(1280, 800)
            browser.call("Emulation.setScrollbarsHidden", hidden=True)
            browser.open(server.url)
            browser.wait(f"document.getElementById('image')?.naturalWidth === {WIDTH}")
            browser.value("step(-1)")  # from the first frame without a box back to the last with one
            browser.wait("document.getElementById('image').src.includes('/35.jpg')")
            page = cv2.imdecode(np.frombuffer(browser.picture(), np.uint8), cv2.IMREAD_COLOR)
    finally:
        browser.close()
    assert page is not None
    small = cv2.resize(page, (960, 600), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(IMAGES / PAGE), small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    print(f"{PAGE}: {(IMAGES / PAGE).stat().st_size // 1000} kB")


def main() -> None:
    """Make the pictures: overlays of runs, with the gaze model of the world beside them, and the page."""
    with edge.open_model("skd-64", "int8", threads=1) as model:
        for name, (seed, index) in CASES.items():
            world = World(seed, WIDTH, HEIGHT)
            *_, result = edge.run_model(model, [world.frame(i).image for i in range(index + 1)])
            truth = gaze_density(world, index, WIDTH, HEIGHT)
            score = cc(cv2.resize(result.saliency, (WIDTH, HEIGHT)), truth.astype(float))
            print(f"{name}: CC {score:.2f}, {[(r.id, round(r.score, 2)) for r in result.regions]}")
            overlay = draw_overlay(result, WIDTH, HEIGHT)
            save(name, [overlay, blend_heat_map(result.frame.image, truth, WIDTH, HEIGHT)])
        frame = empty_frame()
        *_, result = edge.run_model(model, [frame] * EMPTY_FRAMES)
        print(f"{EMPTY}: {[(r.id, round(r.score, 2)) for r in result.regions]}")
        save(EMPTY, [draw_overlay(result, WIDTH, HEIGHT), frame])
    with tempfile.TemporaryDirectory() as temporary:
        annotation_page(Path(temporary))


if __name__ == "__main__":
    main()
