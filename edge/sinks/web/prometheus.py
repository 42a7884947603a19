"""Metrics of the pipelines of a run in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.core.run_status import StatusSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def format_metrics(snapshots: Mapping[str, StatusSnapshot]) -> bytes:
    """Return snapshots in the Prometheus text format.

    Args:
        snapshots: Snapshot by the name of its camera, which becomes a label unless it is empty.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshots))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshots: Mapping[str, StatusSnapshot]) -> None:
        self._snapshots = [([name] if name else [], snapshot) for name, snapshot in snapshots.items()]
        self._labels = ["camera"] if any(snapshots) else []

    def collect(self) -> Iterator[Metric]:
        info = InfoMetricFamily(
            "aerogaze", "Release, precision, engine and source of the run", labels=self._labels
        )
        state = GaugeMetricFamily(
            "aerogaze_state", "1 for the current state", labels=[*self._labels, "state"]
        )
        for camera, snapshot in self._snapshots:
            info.add_metric(camera, vars(snapshot.run_info))
            for name in ("starting", "running", "stalled", "stopped"):
                state.add_metric([*camera, name], float(name == snapshot.state))
        yield info
        yield state
        yield from self._numbers()
        yield from self._faults()

    def _numbers(self) -> Iterator[Metric]:
        latency = GaugeMetricFamily(
            "aerogaze_latency_seconds",
            "Latency from frame to map, quantiles of the most recent results",
            labels=[*self._labels, "quantile"],
        )
        uptime = self._gauge("uptime_seconds", "Time since the start of the run")
        frames = self._counter("frames", "Frames with a result")
        dropped = self._counter("dropped_frames", "Captured frames that were not run")
        held = self._counter("held_maps", "Results that repeat the last valid map")
        rate = self._gauge("frames_per_second", "Rate of the most recent results")
        for camera, snapshot in self._snapshots:
            uptime.add_metric(camera, snapshot.uptime_s)
            frames.add_metric(camera, snapshot.frames)
            dropped.add_metric(camera, snapshot.dropped)
            held.add_metric(camera, snapshot.held)
            rate.add_metric(camera, snapshot.fps)
            for quantile in (0.5, 0.9, 0.99, 1.0) if snapshot.latencies_ms else ():
                value = float(np.quantile(snapshot.latencies_ms, quantile)) / 1e3
                latency.add_metric([*camera, f"{quantile:g}"], value)
        yield from (uptime, frames, dropped, held, rate)
        if latency.samples:
            yield latency

    def _faults(self) -> Iterator[Metric]:
        labels = [*self._labels, "kind"]
        faults = CounterMetricFamily("aerogaze_faults", "Fault episodes by kind", labels=labels)
        is_open = GaugeMetricFamily(
            "aerogaze_fault_open", "1 until the fault episode is over, by kind", labels=labels
        )
        for camera, snapshot in self._snapshots:
            for kind, count in snapshot.faults.items():
                faults.add_metric([*camera, kind], count)
                is_open.add_metric([*camera, kind], float(kind in snapshot.open_faults))
        yield faults
        yield is_open

    def _gauge(self, name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"aerogaze_{name}", text, labels=self._labels)

    def _counter(self, name: str, text: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"aerogaze_{name}", text, labels=self._labels)
