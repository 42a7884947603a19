"""Grafana dashboard: its queries find something in metrics that were recorded from a run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jetson

DASHBOARD = Path(jetson.__path__[0]) / "grafana" / "aerogaze.json"
RECORDED = Path(__file__).with_name("recorded_metrics.txt")
"""`/metrics` of a live run with one fault."""


def queries() -> list[str]:
    """Return the queries of all panels, with the variables that Grafana would put in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    return [each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in expressions]


def samples(text: str) -> Iterator[tuple[str, str, float]]:
    """Yield name, labels without braces and value of each sample."""
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            assert match, line
            yield match[1], match[2] or "", float(match[3])


def test_each_metric_of_the_queries_is_one_that_a_run_exports() -> None:
    recorded = {name for name, _, _ in samples(RECORDED.read_text())}
    for query in queries():
        names = set(re.findall(r"\baerogaze_\w+", query))
        assert names, query
        assert names <= recorded, query


def test_each_metric_of_a_run_is_on_the_dashboard() -> None:
    recorded = {name for name, _, _ in samples(RECORDED.read_text())}
    shown = set(re.findall(r"\baerogaze_\w+", " ".join(queries())))
    unused = {"aerogaze_frames_per_second"}  # the rate of the counter is shown instead
    assert recorded - shown == unused


def test_recorded_metrics_are_those_of_today() -> None:
    pytest.importorskip(
        "prometheus_client", reason="prometheus_client is not installed: pip install 'aerogaze[metrics]'"
    )
    from edge.core.run_status import RunInfo, Status
    from edge.sinks.web.prometheus import format_metrics

    status = Status(RunInfo("skd-64", "int8", "onnxruntime", "camera"))
    status.count_result(2.0)
    status.report_fault("mavlink", "noise")
    today = {
        (name, re.sub('"[^"]*"', "", labels))
        for name, labels, _ in samples(format_metrics({"": status.snapshot()}).decode())
    }
    recorded = {(name, re.sub('"[^"]*"', "", labels)) for name, labels, _ in samples(RECORDED.read_text())}
    assert today == recorded


def test_variables_and_panels_are_complete() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    assert [each["name"] for each in dashboard["templating"]["list"]] == ["datasource", "instance"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(panel["title"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)


def test_queries_find_something_in_the_recorded_metrics(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (apt-get install prometheus)")
    series = [
        {
            "series": f'{name}{{{labels}{"," if labels else ""}instance="drone-1:8080"}}',
            "values": f"{value}+{3 if name.endswith('_total') else 0}x120",
        }
        for name, labels, value in samples(RECORDED.read_text())
    ]
    finds = [
        {
            "expr": f"count({query}) > bool 0",
            "eval_time": "20m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for query in queries()
    ]
    document = {
        "rule_files": [],
        "tests": [{"interval": "10s", "input_series": series, "promql_expr_test": finds}],
    }
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps(document))  # JSON is YAML
    result = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
