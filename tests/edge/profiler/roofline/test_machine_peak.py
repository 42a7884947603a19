"""Peak of the machine, and what limits a layer there."""

from __future__ import annotations

import pytest

from edge.profiler.roofline import machine_peak
from edge.profiler.roofline.machine_peak import MachinePeak, measure_peak

PEAK = MachinePeak(threads=2, gmac_s={"fp32": 100.0, "int8": 400.0}, cache_gb_s=200.0, memory_gb_s=20.0)


@pytest.mark.parametrize(
    ("macs", "moved_bytes", "precision", "ms", "expected"),
    [
        (50_000_000, 1_000_000, "fp32", 1.0, (0.5, "arithmetic")),  # 0.5 ms, and 0.005 ms in the cache
        (50_000_000, 1_000_000, "int8", 1.0, (0.125, "arithmetic")),
        (1_000_000, 10_000_000, "fp32", 1.0, (0.5, "memory")),  # more than the cache has: 0.5 ms
        (0, 1_000_000, "fp32", 0.01, (0.5, "memory")),
        (0, 1_000_000, "int64", 0.01, (0.5, "memory")),  # only arithmetic needs a known precision
        (1_000_000, 1_000_000, "fp16", 1.0, (None, "")),
        (0, 0, "fp32", 1.0, (None, "")),
        (1_000_000, 1_000_000, "fp32", 0.0, (None, "")),
    ],
)
def test_layer_is_compared_with_the_longer_of_its_two_times(
    macs: int, moved_bytes: int, precision: str, ms: float, expected: tuple[float | None, str]
) -> None:
    share, bound = PEAK.compare(macs, moved_bytes, precision, ms)
    assert bound == expected[1]
    assert share == (expected[0] if expected[0] is None else pytest.approx(expected[0]))


def test_peak_is_measured_in_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_peak, "CALLS", 3)
    monkeypatch.setattr(machine_peak, "COPY_ROUNDS", 2)
    monkeypatch.setattr(machine_peak, "MEMORY_COPY_BYTES", 1 << 20)
    peak = measure_peak(threads=1)
    assert set(peak.gmac_s) == {"fp32", "int8"}
    assert min(*peak.gmac_s.values(), peak.cache_gb_s, peak.memory_gb_s) > 0
    assert peak.cached_bytes == 2 * machine_peak.CACHE_COPY_BYTES
