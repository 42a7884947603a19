"""Plots as inline SVG, drawn for a phone's width and enlarged on paper: no library, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 440
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 38
COLOURS = ("#1f6fb2", "#2b8a3e", "#e8590c", "#8e44ad", "#c2255c", "#5f6b7a", "#0b7285", "#a07000")
"""Of series, in their order; each is also named where it is drawn."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, placed between two pixels, by their logarithm if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return a value's place."""
        scale: Callable[[float], float] = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(value) - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values, five or so."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 3 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
        else:
            raw = (self.high - self.low) / 4 or 1.0
            size = 10.0 ** math.floor(math.log10(raw))
            step = next(size * n for n in (1, 2, 5, 10) if size * n >= raw * 0.99)
            first = math.ceil(self.low / step - 1e-9)
            found = [step * n for n in range(first, first + 12)]
        reach = (self.high - self.low) * 1e-9
        return [value for value in found if self.low - reach <= value <= self.high + reach]


def span(values: Sequence[float], room: float = 0.08) -> tuple[float, float]:
    """Return least and most with some room on both sides."""
    low, high = min(values), max(values)
    more = (high - low) * room or abs(high) * room or 1.0
    return low - more, high + more


def plot(height: int, what: str, *parts: str) -> str:
    """Return a figure's drawing; `what` says in words what is seen."""
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(what)}">'
    return head + "".join(parts) + "</svg>"


def axes(x: Axis, y: Axis | None, height: int, x_word: str, y_word: str = "") -> str:
    """Return grid, numbers and words of a plot's axes."""
    out = []
    for value in x.ticks():
        at = f"{x(value):.1f}"
        out.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        out.append(text(x(value), height - BOTTOM + 16, _short(value), "middle"))
    for value in y.ticks() if y else ():
        level = f"{y(value):.1f}"  # type: ignore[misc]
        out.append(f'<line class="grid" y1="{level}" y2="{level}" x1="{LEFT}" x2="{WIDTH - RIGHT}"/>')
        out.append(text(LEFT - 6, y(value) + 4, _short(value), "end"))  # type: ignore[misc]
    out.append(text((LEFT + WIDTH - RIGHT) / 2, height - 5, x_word, "middle"))
    if y_word:
        out.append(
            f'<text transform="translate(12 {(TOP + height - BOTTOM) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_word)}</text>'
        )
    return "".join(out)


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    """Return a line of text."""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def line(points: Points, x: Axis, y: Axis, colour: str, name: str, dashed: bool = False) -> str:
    """Return a line through points of values; its name shows under the pointer."""
    places = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}>'
        f"<title>{escape(name)}</title></polyline>"
    )


def series(
    lines: Mapping[str, Points], height: int, words: tuple[str, str], x_range: tuple[float, float]
) -> str:
    """Return a plot of named lines over a common x."""
    values = [b for points in lines.values() for _, b in points]
    x = Axis(*x_range, LEFT, WIDTH - RIGHT)
    y = Axis(*span(values), height - BOTTOM, TOP)
    drawn = [
        line(points, x, y, COLOURS[index % len(COLOURS)], name)
        for index, (name, points) in enumerate(lines.items())
    ]
    return plot(height, f"{words[1]} over time", axes(x, y, height, *words), *drawn)


def key(names: Sequence[str]) -> str:
    """Return the names of series with their colours."""
    return "".join(
        f'<span class="key"><i style="background:{COLOURS[index % len(COLOURS)]}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )


def ridges(
    names: Sequence[str], values: Sequence[Sequence[float]], marks: Sequence[Sequence[float]], word: str
) -> str:
    """Return a strip for each series: how often which value was seen, on a logarithmic scale.

    `marks`: values in each strip that get a line, the first one solid.
    """
    strip = 54
    height = TOP + strip * len(names) + BOTTOM
    everything = [value for row in values for value in row]
    x = Axis(min(everything) / 1.05, max(everything) * 1.05, LEFT, WIDTH - RIGHT, log=True)
    out = [axes(x, None, height, word)]
    for index, (name, row, at) in enumerate(zip(names, values, marks, strict=True)):
        ground, colour = TOP + strip * (index + 1), COLOURS[index % len(COLOURS)]
        out += [
            f'<rect x="{x(low):.1f}" y="{ground - share * (strip - 18):.1f}" width="{x(high) - x(low):.1f}" '
            f'height="{max(share * (strip - 18), 1.5):.1f}" fill="{colour}" fill-opacity=".75"/>'
            for low, high, share in _bins(row, x)
        ]
        for number, value in enumerate(at):
            dash = ' stroke-dasharray="3 2"' if number else ""
            out.append(
                f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{ground - strip + 14}" '
                f'y2="{ground}"{dash}/>'
            )
        out.append(text(4, ground - 4, name, style="name"))
    return plot(height, f"distributions of {word}", *out)


def stacks(names: Sequence[str], shares: Sequence[Mapping[str, float]], word: str) -> str:
    """Return a bar for each name, made of its parts in their order; parts are coloured alike in all."""
    parts = list(dict.fromkeys(part for row in shares for part in row))
    bar = 34
    height = TOP + bar * len(names) + BOTTOM
    x = Axis(0, max(sum(row.values()) for row in shares) * 1.02 or 1.0, LEFT, WIDTH - RIGHT)
    out = [axes(x, None, height, word)]
    for index, (name, row) in enumerate(zip(names, shares, strict=True)):
        at, top = 0.0, TOP + bar * index + 6
        for part, value in row.items():
            colour = COLOURS[parts.index(part) % len(COLOURS)]
            out.append(
                f'<rect x="{x(at):.1f}" y="{top}" width="{max(x(at + value) - x(at), 0):.1f}" '
                f'height="{bar - 12}" fill="{colour}"><title>{escape(part)} {value:.3f} ms</title></rect>'
            )
            at += value
        out.append(text(4, top + 15, name, style="name"))
    return plot(height, f"{word} of parts", *out) + f"<p>{key(parts)}</p>"


def _bins(values: Sequence[float], x: Axis, count: int = 48) -> Iterator[tuple[float, float, float]]:
    """Yield low, high and share of the fullest bin, for bins that hold something."""
    low, step = math.log10(x.low), math.log10(x.high / x.low) / count
    held = [0] * count
    for value in values:
        held[min(count - 1, int((math.log10(value) - low) / step))] += 1
    for index, number in enumerate(held):
        if number:
            yield 10 ** (low + index * step), 10 ** (low + (index + 1) * step), number / max(held)


def _short(value: float) -> str:
    return f"{value:.6g}"
