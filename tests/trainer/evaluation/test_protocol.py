"""The protocol: each sequence has one place, and views are parts of these sequences."""

from __future__ import annotations

from trainer.evaluation.protocol import load_protocol


def test_each_of_the_19_sequences_belongs_to_one_place() -> None:
    sequences = [sequence for place in load_protocol().places for sequence in place.sequences]
    assert len(sequences) == len(set(sequences)) == 19


def test_views_lie_inside_their_frames_and_in_the_place_of_their_sequence() -> None:
    views = load_protocol().empty_views
    assert views
    for view in views:
        left, top, width, height = view.window
        assert min(left, top) >= 0
        assert left + width <= 1
        assert top + height <= 1
        assert view.sequence in view.place.sequences


def test_thermal_sequences_have_their_own_frame_rate() -> None:
    assert {place.name: place.fps for place in load_protocol().places}["thermal"] == 2.0
