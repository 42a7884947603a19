"""Plots as inline SVG, sized for a phone's width, without a library or external resources."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 440
LEFT, RIGHT, TOP, BOTTOM = 72, 12, 12, 38
COLOURS = ("#1f6fb2", "#2b8a3e", "#e8590c", "#8e44ad", "#c2255c", "#5f6b7a", "#0b7285", "#a07000")
"""Colours of the series in their order; each series also has its name in the plot or the legend."""
STRIP_HEIGHT = 54
BAR_HEIGHT = 34

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Linear or logarithmic axis.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Pixel of the lowest value.
        end: Pixel of the highest value.
        log: The axis is logarithmic.
        whole: Only whole numbers are values, such as counts.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        scale: Callable[[float], float] = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(value) - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return about five round values."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 3 else (1,)
            values = [step * 10.0**decade for decade in decades for step in steps]
        else:
            raw_step = (self.high - self.low) / 4 or 1.0
            size = 10.0 ** math.floor(math.log10(raw_step))
            step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw_step * 0.99)
            step = max(1.0, step) if self.whole else step
            first = math.ceil(self.low / step - 1e-9)
            values = [step * number for number in range(first, first + 12)]
        tolerance = (self.high - self.low) * 1e-9
        return [value for value in values if self.low - tolerance <= value <= self.high + tolerance]


def padded_range(values: Sequence[float], padding: float = 0.08) -> tuple[float, float]:
    """Return the minimum and maximum with some padding, a share of their distance, on both sides."""
    low, high = min(values), max(values)
    margin = (high - low) * padding or abs(high) * padding or 1.0
    return low - margin, high + margin


def plot(height: int, label: str, *elements: str) -> str:
    """Return an SVG drawing; `label` describes it to screen readers."""
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return head + "".join(elements) + "</svg>"


def axes(x: Axis, y: Axis | None, height: int, x_label: str, y_label: str = "") -> str:
    """Return the grid, the numbers and the labels of the axes."""
    elements = []
    ticks = x.ticks()
    for value, label in zip(ticks, _format_ticks(ticks, x.log), strict=True):
        px = f"{x(value):.1f}"
        elements.append(f'<line class="grid" x1="{px}" x2="{px}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        elements.append(text(x(value), height - BOTTOM + 16, label, "middle"))
    if y is not None:
        ticks = y.ticks()
        for value, label in zip(ticks, _format_ticks(ticks, y.log), strict=True):
            py = f"{y(value):.1f}"
            elements.append(f'<line class="grid" y1="{py}" y2="{py}" x1="{LEFT}" x2="{WIDTH - RIGHT}"/>')
            elements.append(text(LEFT - 6, y(value) + 4, label, "end"))
    elements.append(text((LEFT + WIDTH - RIGHT) / 2, height - 5, x_label, "middle"))
    if y_label:
        elements.append(
            f'<text transform="translate(12 {(TOP + height - BOTTOM) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
    return "".join(elements)


def text(x: float, y: float, content: str, anchor: str = "start", style: str = "", turn: float = 0.0) -> str:
    """Return a line of text, turned clockwise about its anchor by some degrees."""
    css_class = f' class="{style}"' if style else ""
    turned = f' transform="rotate({turn:.1f} {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css_class}{turned}>{escape(content)}</text>'


def circle(x: float, y: float, radius: float, colour: str, title: str) -> str:
    """Return a circle through which others can be seen; its title shows under the pointer."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".55" '
        f'stroke="{colour}"><title>{escape(title)}</title></circle>'
    )


def line(points: Points, x: Axis, y: Axis, colour: str, name: str, dashed: bool = False) -> str:
    """Return a line through points given as values; its name shows under the pointer."""
    pixels = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<polyline points="{pixels}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}>'
        f"<title>{escape(name)}</title></polyline>"
    )


def series(
    lines: Mapping[str, Points],
    height: int,
    labels: tuple[str, str],
    x_range: tuple[float, float],
    whole_x: bool = False,
) -> str:
    """Return a plot of named lines.

    Args:
        lines: Points of each line by its name.
        height: Height of the plot in pixels.
        labels: Labels of the x axis and of the y axis.
        x_range: Lowest and highest x.
        whole_x: Only whole numbers are values of x.
    """
    values = [b for points in lines.values() for _, b in points]
    x = Axis(*x_range, LEFT, WIDTH - RIGHT, whole=whole_x)
    y = Axis(*padded_range(values), height - BOTTOM, TOP)
    elements = [
        line(points, x, y, COLOURS[index % len(COLOURS)], name)
        for index, (name, points) in enumerate(lines.items())
    ]
    return plot(height, f"{labels[1]} over time", axes(x, y, height, *labels), *elements)


def legend(names: Sequence[str]) -> str:
    """Return the names of series with their colours."""
    return "".join(
        f'<span class="key"><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )


def ridges(
    names: Sequence[str], values: Sequence[Sequence[float]], marks: Sequence[Sequence[float]], label: str
) -> str:
    """Return a strip with a histogram for each series, on a common logarithmic axis.

    Args:
        names: Names of the series.
        values: Values of each series.
        marks: Values in each strip that get a vertical line; the first one is solid, the others dashed.
        label: Label of the axis.
    """
    height = TOP + STRIP_HEIGHT * len(names) + BOTTOM
    bar_height = STRIP_HEIGHT - 18
    all_values = [value for row in values for value in row]
    x = Axis(min(all_values) / 1.05, max(all_values) * 1.05, LEFT, WIDTH - RIGHT, log=True)
    elements = [axes(x, None, height, label)]
    for index, (name, row, row_marks) in enumerate(zip(names, values, marks, strict=True)):
        base, colour = TOP + STRIP_HEIGHT * (index + 1), COLOURS[index % len(COLOURS)]
        elements += [
            f'<rect x="{x(low):.1f}" y="{base - share * bar_height:.1f}" width="{x(high) - x(low):.1f}" '
            f'height="{max(share * bar_height, 1.5):.1f}" fill="{colour}" fill-opacity=".75"/>'
            for low, high, share in _histogram(row, x)
        ]
        for number, value in enumerate(row_marks):
            dash = ' stroke-dasharray="3 2"' if number else ""
            elements.append(
                f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" '
                f'y1="{base - STRIP_HEIGHT + 14}" y2="{base}"{dash}/>'
            )
        elements.append(text(4, base - 4, name, style="name"))
    return plot(height, f"distributions of {label}", *elements)


def stacks(names: Sequence[str], parts: Sequence[Mapping[str, float]], label: str) -> str:
    """Return a stacked bar for each name; a part has the same colour in all bars."""
    part_names = list(dict.fromkeys(part for bar in parts for part in bar))
    height = TOP + BAR_HEIGHT * len(names) + BOTTOM
    x = Axis(0, max(sum(bar.values()) for bar in parts) * 1.02 or 1.0, LEFT, WIDTH - RIGHT)
    elements = [axes(x, None, height, label)]
    for index, (name, bar) in enumerate(zip(names, parts, strict=True)):
        start, top = 0.0, TOP + BAR_HEIGHT * index + 6
        for part, value in bar.items():
            colour = COLOURS[part_names.index(part) % len(COLOURS)]
            elements.append(
                f'<rect x="{x(start):.1f}" y="{top}" width="{max(x(start + value) - x(start), 0):.1f}" '
                f'height="{BAR_HEIGHT - 12}" fill="{colour}"><title>{escape(part)} {value:.3f} ms</title>'
                "</rect>"
            )
            start += value
        elements.append(text(4, top + 15, name, style="name"))
    return plot(height, f"{label} of parts", *elements) + f"<p>{legend(part_names)}</p>"


def _histogram(values: Sequence[float], x: Axis, bins: int = 48) -> Iterator[tuple[float, float, float]]:
    """Yield the low end, the high end and the share of the fullest bin, for each bin that is not empty."""
    low, step = math.log10(x.low), math.log10(x.high / x.low) / bins
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((math.log10(value) - low) / step))] += 1
    for index, count in enumerate(counts):
        if count:
            yield 10 ** (low + index * step), 10 ** (low + (index + 1) * step), count / max(counts)


def _format_ticks(values: Sequence[float], log: bool) -> list[str]:
    """Return the labels of ticks; on a linear axis, with as many decimals as their distance needs."""
    if log or len(values) < 2:
        return [f"{value:.6g}" for value in values]
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value + 0.0:.{decimals}f}" for value in values]
