from __future__ import annotations

from edge.profiler.report.html import pareto_front


def test_pareto_front_has_the_points_that_no_other_beats_in_both() -> None:
    points = [(2.0, 0.9), (1.0, 0.8), (3.0, 0.85), (2.0, 0.95), (4.0, 0.99)]
    assert pareto_front(points) == [(1.0, 0.8), (2.0, 0.95), (4.0, 0.99)]
