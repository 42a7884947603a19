"""A pipeline's numbers as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.core.run_status import StatusSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def format_metrics(seen: StatusSnapshot) -> bytes:
    """Return the snapshot in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(seen))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, seen: StatusSnapshot) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        yield InfoMetricFamily("aerogaze", "What runs", vars(seen.run_info))
        state = GaugeMetricFamily("aerogaze_state", "1 for the state it is in", labels=["state"])
        for name in ("starting", "running", "stalled", "stopped"):
            state.add_metric([name], float(name == seen.state))
        yield state
        yield GaugeMetricFamily("aerogaze_uptime_seconds", "Since the start", value=seen.uptime_s)
        yield CounterMetricFamily("aerogaze_frames", "Frames mapped", value=seen.frames)
        yield CounterMetricFamily("aerogaze_dropped_frames", "Frames never run", value=seen.dropped)
        yield CounterMetricFamily("aerogaze_held_maps", "Last good maps given again", value=seen.held)
        yield GaugeMetricFamily("aerogaze_frames_per_second", "Over the last results", value=seen.fps)
        if seen.latencies_ms:
            latency = GaugeMetricFamily(
                "aerogaze_latency_seconds", "Frame to map, quantiles of the last results", labels=["quantile"]
            )
            for quantile in (0.5, 0.9, 0.99, 1.0):
                value = float(np.quantile(seen.latencies_ms, quantile)) / 1e3
                latency.add_metric([f"{quantile:g}"], value)
            yield latency
        faults = CounterMetricFamily("aerogaze_faults", "Episodes of trouble, by kind", labels=["kind"])
        now = GaugeMetricFamily(
            "aerogaze_fault_open", "1 until the episode is over, by kind", labels=["kind"]
        )
        for kind, count in seen.faults.items():
            faults.add_metric([kind], count)
            now.add_metric([kind], float(kind in seen.open_faults))
        yield faults
        yield now
