"""Roofline of a profile: its plot, and its lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from edge.profiler.measurement.document import Row
from edge.profiler.report import svg

CAPTION = (
    "Each circle is a layer with multiply-accumulates; its area is its share of the time, its number that of "
    "the table below. Solid roofs: the rate of a large 3 x 3 convolution in ONNX Runtime, and copies in the "
    "cache. Dashed roof: a copy in memory."
)
HEIGHT = 330
MAX_RADIUS = 15.0
MIN_RADIUS = 2.5
NEAR_PIXELS = 9.0
"""Layers whose circles are nearer than this share the text with their numbers."""


def has_roofline(profile: Row) -> bool:
    """Return whether layers of a row are compared with the machine's peak; older documents have none."""
    return bool(profile.get("peak")) and any(_points(profile["layers"]))


def describe_roofline(name: str, profile: Row) -> Iterator[str]:
    """Yield the work of a row, and the time by what limits its layers at the machine's peak."""
    if "work" not in profile:
        return
    work, total_ms = profile["work"], sum(profile["parts_ms"].values()) or 1.0
    if work is None:
        yield f"{name}: {profile['peak_why']}"
        return
    moved_bytes = sum(work[key] for key in ("weight_bytes", "read_bytes", "written_bytes"))
    yield (
        f"{name}, a call: {work['macs'] / 1e6:.1f} MMAC and {moved_bytes / 1e6:.2f} MB moved in "
        f"{total_ms:.3f} ms, {work['macs'] / total_ms / 1e6:.1f} GMAC/s"
    )
    if unassigned := profile["unassigned_macs"]:
        yield f"{name}: {unassigned / 1e6:.1f} MMAC belong to no layer that the engine names"
    if profile["peak"] is None:
        yield f"{name}: {profile['peak_why']}"
        return
    bounds = ", ".join(f"{bound} {ms / total_ms:.0%}" for bound, ms in sorted(profile["bounds_ms"].items()))
    at_peak_ms = sum(layer["ms"] * (layer["peak_share"] or 0) for layer in profile["layers"])
    yield f"{name}, time by bound: {bounds}; at the peak {at_peak_ms:.3f} ms, {at_peak_ms / total_ms:.0%}"


def describe_peak(profiles: Mapping[str, Row]) -> Iterator[str]:
    """Yield the peak that the rows are compared with, if there is one."""
    peak = next((profile["peak"] for profile in profiles.values() if profile.get("peak")), None)
    if peak is not None:
        rates = ", ".join(f"{precision} {rate:.1f}" for precision, rate in peak["gmac_s"].items())
        yield (
            f"peak with {peak['threads']} thread{'s' * (peak['threads'] > 1)}: {rates} GMAC/s in a 3 x 3 "
            f"convolution; copies {peak['cache_gb_s']:.0f} GB/s in the cache, {peak['memory_gb_s']:.0f} GB/s "
            "in memory"
        )


def format_peak_share(layer: Row) -> str:
    """Return a layer's share of the peak, or a dash."""
    share = layer.get("peak_share")
    return "-" if share is None else f"{share:.0%}"


def roofline_plot(profile: Row) -> str:
    """Return the plot of a row: multiply-accumulates per second against those per byte, both logarithmic."""
    peak, layers = profile["peak"], profile["layers"]
    numbers = {name: index + 1 for index, name in enumerate(profile["slowest"])}
    points = list(_points(layers))
    used = {layer["precision"] for layer, _, _ in points}
    roofs = {precision: rate for precision, rate in peak["gmac_s"].items() if precision in used}
    highest = max([*roofs.values(), *(rate for *_, rate in points)])
    x = svg.Axis(
        min([highest / peak["cache_gb_s"], *(intensity for _, intensity, _ in points)]) / 4,
        max([2 * highest / peak["memory_gb_s"], *(2 * intensity for _, intensity, _ in points)]),
        svg.LEFT,
        svg.WIDTH - svg.RIGHT,
        log=True,
    )
    y = svg.Axis(min(rate for *_, rate in points) / 2, 1.8 * highest, HEIGHT - svg.BOTTOM, svg.TOP, log=True)
    elements = [svg.axes(x, y, HEIGHT, "MAC per byte", "GMAC/s")]
    elements += _roofs(x, y, roofs, peak)
    parts = sorted({layer["part"] for layer, _, _ in points})
    for layer, intensity, rate in sorted(points, key=lambda point: -point[0]["ms"]):
        colour = svg.COLOURS[parts.index(layer["part"]) % len(svg.COLOURS)]
        radius = max(MIN_RADIUS, MAX_RADIUS * math.sqrt(layer["share"]))
        title = (
            f"{layer['name']}: {layer['ms']:.3f} ms, {rate:.1f} GMAC/s, {format_peak_share(layer)} of peak"
        )
        elements.append(svg.circle(x(intensity), y(rate), radius, colour, title))
    numbered = [
        (x(intensity), y(rate), numbers[layer["name"]])
        for layer, intensity, rate in points
        if layer["name"] in numbers
    ]
    taken = [(x(intensity), y(rate), MIN_RADIUS) for _, intensity, rate in points]
    # Names of roofs start 8 pixels to the right of the ridge.
    taken += [(x(rate / peak["memory_gb_s"]) + 66, y(rate) - 9, 62.0) for rate in roofs.values()]
    elements += _numbers(sorted(numbered, key=lambda place: place[2]), taken)
    return svg.plot(HEIGHT, "roofline", *elements) + f"<p>{svg.legend(parts)}</p>"


def _points(layers: Sequence[Row]) -> Iterator[tuple[Row, float, float]]:
    """Yield each layer with a place on the plot, its MAC per byte and its 1e9 MAC per second."""
    for layer in layers:
        if layer.get("macs") and layer["moved_bytes"] and layer["ms"]:
            yield layer, layer["macs"] / layer["moved_bytes"], layer["macs"] / layer["ms"] / 1e6


def _roofs(x: svg.Axis, y: svg.Axis, roofs: Mapping[str, float], peak: Row) -> Iterator[str]:
    colour = "#888"
    for precision, rate in roofs.items():
        ridge = max(x.low, rate / peak["cache_gb_s"])
        yield svg.line([(ridge, rate), (x.high, rate)], x, y, colour, f"{precision}, 3 x 3 convolution")
        yield svg.text(x(rate / peak["memory_gb_s"]) + 8, y(rate) - 5, f"{precision} {rate:.0f} GMAC/s")
    highest = max(roofs.values())
    for key, title in (("cache_gb_s", "cache"), ("memory_gb_s", "memory")):
        bandwidth = peak[key]
        start, end = max(x.low, y.low / bandwidth), min(x.high, highest / bandwidth)
        if start < end:
            line = [(start, start * bandwidth), (end, end * bandwidth)]
            yield svg.line(line, x, y, colour, f"copy, {title}", dashed=key == "memory_gb_s")
            slope = math.degrees(math.atan2(y(line[1][1]) - y(line[0][1]), x(end) - x(start)))
            near_foot = start * (end / start) ** 0.35
            px, py = x(near_foot), y(near_foot * bandwidth)
            # The anchor is turned, too: above the line of the cache, below that of memory.
            below = 14 if key == "memory_gb_s" else -5
            px -= below * math.sin(math.radians(slope))
            py += below * math.cos(math.radians(slope))
            yield svg.text(px, py, f"{title} {bandwidth:.0f} GB/s", "middle", turn=slope)


def _numbers(
    places: Sequence[tuple[float, float, int]], taken: Sequence[tuple[float, float, float]]
) -> Iterator[str]:
    """Yield the numbers of layers (x, y, number), where they cover least; near layers share a text.

    Args:
        places: Circles of the layers.
        taken: What should not be covered: x and y of its centre, and half of its width.
    """
    groups: list[tuple[float, float, list[int]]] = []
    for px, py, number in places:
        near = next((g for g in groups if math.hypot(px - g[0], py - g[1]) < NEAR_PIXELS), None)
        if near is None:
            groups.append((px, py, [number]))
        else:
            near[2].append(number)
    boxes = list(taken)
    for px, py, group in groups:
        content = ", ".join(map(str, group))
        half = 3.8 * len(content)
        candidates = [
            (px + side * (half + 11), py + down)
            for down in (4, -11, 19, -25, 33)
            for side in ((1, -1) if down == 4 else (0, 1, -1))
        ]
        covered = [
            sum(abs(tx - a) < half + h + 2 and abs(ty - 4 - b) < 11 for a, b, h in boxes)
            + 9 * (tx + half > svg.WIDTH - svg.RIGHT)
            for tx, ty in candidates
        ]
        tx, ty = candidates[covered.index(min(covered))]
        boxes.append((tx, ty - 4, half))
        yield svg.text(tx, ty, content, "middle", "name")
