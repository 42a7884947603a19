"""Themes of the benchmark: each can be listed, and `make bench` ends in time."""

from __future__ import annotations

import pytest

from edge.core.errors import InputError
from tests.bench.measurement.row import Benchmark
from tests.bench.measurement.session import budget_of
from tests.bench.themes import NAMED_THEMES, THEMES, check_themes, load_benchmarks

MAKE_BENCH_S = 600


@pytest.mark.parametrize("theme", [*THEMES, *NAMED_THEMES])
def test_benchmarks_of_a_theme_have_names_and_labels_of_their_own(theme: str) -> None:
    benchmarks = load_benchmarks(theme)
    assert benchmarks
    assert len({benchmark.name for benchmark in benchmarks}) == len(benchmarks)
    labels = [row.label for each in benchmarks if isinstance(each, Benchmark) for row in each.rows]
    assert len(set(labels)) == len(labels)


def test_make_bench_has_a_budget_of_less_than_ten_minutes() -> None:
    assert budget_of({theme: load_benchmarks(theme) for theme in check_themes([])}) < MAKE_BENCH_S


def test_unknown_theme_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^no theme speed; expected some of students, engines, "):
        check_themes(["students", "speed"])
