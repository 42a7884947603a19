"""A picture of what each layer loses in int8."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from calibration.search.sensitivity import Sensitivity

INK, ACCENT = "#5c636e", "#e8590c"
FLOOR = 1e-8
"""Of a logarithmic axis."""


def plot(found: Sensitivity, path: Path, title: str) -> None:
    """Draw 1 - CC and KLD by layer, alone and all but it, with all layers in int8 as a line."""
    names = [layer.layer for layer in found.layers]
    figure = Figure(figsize=(10, 1.6 + 0.28 * len(names)), layout="constrained", dpi=120)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, what in zip(panels, ("1 - CC", "KLD"), strict=True):
        alone, all_but, whole = (
            [max(1 - q.cc if what == "1 - CC" else q.kld, FLOOR) for q in qualities]
            for qualities in (
                [layer.alone for layer in found.layers],
                [layer.all_but for layer in found.layers],
                [found.whole],
            )
        )
        places = range(len(names))
        axes.barh(places, alone, height=0.6, color=ACCENT, label="this layer alone in int8")
        axes.plot(all_but, places, "o", color=INK, markersize=5, label="all but this layer")
        axes.axvline(whole[0], color=INK, linestyle="--", linewidth=1, label="all layers")
        axes.set_xscale("log")
        axes.set_xlabel(f"{what} of the map against fp32 (less is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
