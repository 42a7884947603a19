"""Metrics of a pipeline in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.core.run_status import StatusSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def format_metrics(snapshot: StatusSnapshot) -> bytes:
    """Return a snapshot in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: StatusSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield InfoMetricFamily(
            "aerogaze", "Release, precision, engine and source of the run", vars(snapshot.run_info)
        )
        state = GaugeMetricFamily("aerogaze_state", "1 for the current state", labels=["state"])
        for name in ("starting", "running", "stalled", "stopped"):
            state.add_metric([name], float(name == snapshot.state))
        yield state
        yield GaugeMetricFamily(
            "aerogaze_uptime_seconds", "Time since the start of the run", value=snapshot.uptime_s
        )
        yield CounterMetricFamily("aerogaze_frames", "Frames with a result", value=snapshot.frames)
        yield CounterMetricFamily(
            "aerogaze_dropped_frames", "Captured frames that were not run", value=snapshot.dropped
        )
        yield CounterMetricFamily(
            "aerogaze_held_maps", "Results that repeat the last valid map", value=snapshot.held
        )
        yield GaugeMetricFamily(
            "aerogaze_frames_per_second", "Rate of the most recent results", value=snapshot.fps
        )
        if snapshot.latencies_ms:
            yield self._latency_quantiles(snapshot.latencies_ms)
        faults = CounterMetricFamily("aerogaze_faults", "Fault episodes by kind", labels=["kind"])
        is_open = GaugeMetricFamily(
            "aerogaze_fault_open", "1 until the fault episode is over, by kind", labels=["kind"]
        )
        for kind, count in snapshot.faults.items():
            faults.add_metric([kind], count)
            is_open.add_metric([kind], float(kind in snapshot.open_faults))
        yield faults
        yield is_open

    @staticmethod
    def _latency_quantiles(latencies_ms: tuple[float, ...]) -> Metric:
        latency = GaugeMetricFamily(
            "aerogaze_latency_seconds",
            "Latency from frame to map, quantiles of the most recent results",
            labels=["quantile"],
        )
        for quantile in (0.5, 0.9, 0.99, 1.0):
            value = float(np.quantile(latencies_ms, quantile)) / 1e3
            latency.add_metric([f"{quantile:g}"], value)
        return latency
