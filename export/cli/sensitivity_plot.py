"""Plot of the loss of each layer in int8."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from calibration.search.sensitivity import Sensitivity

GREY, ORANGE = "#5c636e", "#e8590c"
MIN_LOSS = 1e-8
"""Smallest loss on the logarithmic axis."""


def plot_sensitivity(result: Sensitivity, path: Path, title: str) -> None:
    """Plot 1 - CC and KLD of each layer, with it alone in int8 and with all others in int8.

    A vertical line shows the loss with all layers in int8.
    """
    names = [layer.layer for layer in result.layers]
    figure = Figure(figsize=(10, 1.6 + 0.28 * len(names)), layout="constrained", dpi=120)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, ("1 - CC", "KLD"), strict=True):
        alone, all_but, whole = (
            [max(1 - q.cc if metric == "1 - CC" else q.kld, MIN_LOSS) for q in qualities]
            for qualities in (
                [layer.alone for layer in result.layers],
                [layer.all_but for layer in result.layers],
                [result.whole],
            )
        )
        rows = range(len(names))
        axes.barh(rows, alone, height=0.6, color=ORANGE, label="only this layer in int8")
        axes.plot(all_but, rows, "o", color=GREY, markersize=5, label="all but this layer")
        axes.axvline(whole[0], color=GREY, linestyle="--", linewidth=1, label="all layers")
        axes.set_xscale("log")
        axes.set_xlabel(f"{metric} of the map against fp32 (less is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
