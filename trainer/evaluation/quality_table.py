"""Tables of `aerogaze quality`, at most 100 columns wide."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trainer.evaluation.protocol import Protocol
from trainer.evaluation.quality import Quality, SequenceScores
from trainer.evaluation.scores import confidence_interval

BOX_METRICS = {"auc": ("AUC", 3), "zblur": ("zblur", 2), "hit": ("hit", 2)}
"""Box scores of the table with their titles and decimals."""
SELECTED_BY = "zblur"
"""Box score by which the best candidate is chosen on the other places."""
NINE = "uav2"
"""Folder of the nine sequences that were held out until the students of 0.2."""
NONE = "-"


def main_table(results: Sequence[Quality]) -> Table:
    """Return the table of all measures: one candidate per row, and its intervals below."""
    table = _table(
        "", *(title for title, _ in BOX_METRICS.values()), "twins", "gaze", "gaze soft", "alarms", "ms"
    )
    for quality in results:
        twins, alarms = quality.twins, quality.alarms
        table.add_row(
            quality.name,
            *(_mean(quality.values(metric), places) for metric, (_, places) in BOX_METRICS.items()),
            f"{twins.moving:.2f} {twins.moving_once:.2f}",
            _gaze(quality.gaze),
            _gaze(quality.gaze_soft),
            NONE if alarms is None else f"{alarms.alarms:.2f}",
            NONE if quality.cost_ms is None else f"{quality.cost_ms:.1f}",
        )
        intervals = [_interval(quality.values(metric), places) for metric, (_, places) in BOX_METRICS.items()]
        table.add_row("", *intervals, "", "", "", "", "", style="dim")
    return table


def place_table(results: Sequence[Quality], protocol: Protocol) -> Table:
    """Return the box scores of each place, and of the candidate that the other places would have chosen.

    The last column is the mean of the nine sequences of `uav2`.
    """
    places = [place.name for place in protocol.places if results and results[0].values("auc", place.name)]
    table = _table("AUC zblur hit", *places, NINE)
    for quality in results:
        nine = [s for s in quality.sequences if s.name.startswith(f"{NINE}/")]
        cells = [_scores(quality.in_place(place)) for place in places]
        table.add_row(quality.name, *cells, _scores(nine))
    if len(results) > 1:
        chosen = {place: choose_without(results, place) for place in places}
        kept = [row for place, quality in chosen.items() for row in quality.in_place(place)]
        nine = [row for row in kept if row.name.startswith(f"{NINE}/")]
        cells = [_scores(chosen[place].in_place(place)) for place in places]
        table.add_row("chosen", *cells, _scores(nine), style="bold")
        table.add_row("", *(chosen[place].name for place in places), style="dim")
    return table


def reliability_table(results: Sequence[Quality]) -> Table:
    """Return the share of first regions that lie on the tracked target, by their score."""
    bins = results[0].reliability if results else []
    table = _table("on target, by score", *(f"{b.low:.1f} to {b.high:.1f}" for b in bins))
    for quality in results:
        cells = [
            NONE if b.on_target is None else f"{b.on_target:.2f} of {b.frames}" for b in quality.reliability
        ]
        table.add_row(quality.name, *cells)
    return table


def sequence_table(results: Sequence[Quality]) -> Table:
    """Return AUC, zblur and hit of each sequence."""
    table = _table("AUC zblur hit", *(quality.name for quality in results))
    for index, sequence in enumerate(results[0].sequences if results else ()):
        cells = [_scores([quality.sequences[index]]) for quality in results]
        table.add_row(sequence.name.split("/")[-1], *cells)
    return table


def alarm_table(results: Sequence[Quality]) -> Table:
    """Return false alarms by kind of frame, and what the threshold of the release does."""
    table = _table(
        "", "made empty", "featureless", "views", "reported", "threshold", "at the release's", "reported"
    )
    for quality in results:
        shipped = quality.shipped
        at_release = (
            "no calibration" if shipped is None else f"{shipped.alarms:.2f} at {shipped.threshold:.2f}"
        )
        reported = NONE if shipped is None else _number(shipped.reported)
        fold = quality.alarms
        cells = [NONE] * 5
        if fold is not None:
            cells = [_number(fold.by_kind.get(kind)) for kind in ("made empty", "featureless", "view")]
            cells += [_number(fold.reported), _number(fold.threshold)]
        table.add_row(quality.name, *cells, at_release, reported)
    return table


def choose_without(results: Sequence[Quality], place: str) -> Quality:
    """Return the candidate with the best mean `SELECTED_BY` over the sequences of all other places."""

    def elsewhere(quality: Quality) -> float:
        values = [s.scores[SELECTED_BY] for s in quality.sequences if s.place != place]
        return sum(values) / len(values) if values else -math.inf

    return max(results, key=elsewhere)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    return table


def _mean(values: Sequence[float], places: int) -> str:
    return f"{sum(values) / len(values):.{places}f}" if values else NONE


def _interval(values: Sequence[float], places: int) -> str:
    interval = confidence_interval(values)
    return "" if interval is None else f"{interval[0]:.{places}f}..{interval[1]:.{places}f}"


def _gaze(scores: dict[str, float] | None) -> str:
    return NONE if scores is None else f"{scores['cc']:.2f} {scores['nss']:.2f}"


def _scores(sequences: Sequence[SequenceScores]) -> str:
    """Return AUC, zblur and hit, mean over sequences, short enough for six in a row."""
    if not sequences:
        return NONE
    auc, zblur, hit = (sum(s.scores[m] for s in sequences) / len(sequences) for m in BOX_METRICS)
    return f"{auc:.2f} {zblur:.1f} {hit:.2f}"


def _number(value: float | None) -> str:
    return NONE if value is None or math.isnan(value) else f"{value:.2f}"
