"""Tests of sensors and energy meters on file trees as the kernel and NVIDIA document them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.hardware.energy_meters import Ina3221Meter, NvmlMeter, RaplMeter, find_energy_meter
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors, throttle_causes
from tests.support.sensor_trees import DESKTOP_FILES, ORIN_FILES, write_tree


def test_sensors_read_jetson_files(tmp_path: Path) -> None:
    sensors = Sensors(write_tree(tmp_path, ORIN_FILES))
    reading = sensors.read()
    assert reading.temperatures_c == {"cpu-thermal": 51.25, "tj-thermal": 52.0}
    assert reading.clocks_mhz == {"cpu 0": 1510.4, "gpu 17000000.gpu": pytest.approx(918)}
    assert sensors.governors == {"cpu 0": "schedutil", "gpu 17000000.gpu": "nvhost_podgov"}
    assert sensors.unreadable == {}
    assert (
        throttle_causes([reading]) == []
    )  # a fan does not reduce speed, and the counted events are from before


@pytest.mark.parametrize(
    ("files", "name", "text", "cause"),
    [
        (ORIN_FILES, "sys/class/thermal/cooling_device1/cur_state", "1", "cpu-throttle-alert"),
        (ORIN_FILES, "sys/class/hwmon/hwmon2/oc1_event_cnt", "3", "too much current (oc1)"),
        (
            DESKTOP_FILES,
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
            "8",
            "cpu core too hot",
        ),
    ],
)
def test_throttle_causes_between_two_readings(
    tmp_path: Path, files: dict[str, str], name: str, text: str, cause: str
) -> None:
    sensors = Sensors(write_tree(tmp_path, files))
    before = sensors.read()
    (tmp_path / name).write_text(text)
    assert throttle_causes([before, sensors.read()]) == [cause]


def test_unreadable_sensors_are_reported_with_reason(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path)
    assert sorted(sensors.unreadable) == ["clocks", "temperatures", "throttling"]
    assert "a container, a virtual machine, or no permission" in sensors.unreadable["clocks"]
    assert sensors.read().temperatures_c == {}


def test_sensor_that_stops_answering_is_left_out(tmp_path: Path) -> None:
    sensors = Sensors(write_tree(tmp_path, ORIN_FILES))
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("no number")
    assert list(sensors.read().temperatures_c) == ["tj-thermal"]


def test_ina3221_meter_uses_rail_of_whole_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = find_energy_meter(write_tree(tmp_path, ORIN_FILES))
    assert isinstance(meter, Ina3221Meter)
    assert "VDD_IN" in meter.description
    clock = iter([10.0, *[10.1] * 1000])
    monkeypatch.setattr("edge.hardware.energy_meters.time.monotonic", lambda: next(clock, 12.0))
    meter.start()
    assert meter.stop() == pytest.approx(7.0 * 0.1)  # 5 V, 1.4 A, a tenth of a second


def test_ina3221_meter_adds_rails_without_module_rail(tmp_path: Path) -> None:
    files = {**ORIN_FILES, "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU_SOC"}
    meter = find_energy_meter(write_tree(tmp_path, files))
    assert isinstance(meter, Ina3221Meter)
    assert "VDD_GPU_SOC + VDD_CPU_GPU_CV" in meter.description


def test_rapl_meter_counts_packages_and_handles_wrap(tmp_path: Path) -> None:
    meter = find_energy_meter(write_tree(tmp_path, DESKTOP_FILES))
    assert isinstance(meter, RaplMeter)
    meter.start()
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("2000000")
    assert meter.stop() == pytest.approx(3.0)
    assert meter.description == "RAPL, package-0: the processor alone"


def test_missing_meter_and_missing_permission_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no power monitor" in str(find_energy_meter(tmp_path))
    counter = write_tree(tmp_path, DESKTOP_FILES) / "sys/class/powercap/intel-rapl:0/energy_uj"
    read_text = Path.read_text

    def deny(self: Path, *args: Any, **options: Any) -> str:
        if self == counter:  # the tests may run as root, who can read everything
            raise PermissionError(13, "Permission denied")
        return read_text(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", deny)
    assert "only root may read RAPL" in str(find_energy_meter(tmp_path))


def test_ina3221_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, ORIN_FILES)
    read_text = Path.read_text

    def deny(self: Path, *args: Any, **options: Any) -> str:
        if self.name == "in1_label":
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", deny)
    assert "in1_label: Permission denied): run as root" in str(find_energy_meter(tmp_path))


class FakeNvmlLibrary:
    """Test double of libnvidia-ml.so.1: results go through pointers, as in nvml.h."""

    millijoules = 5000

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTemperature(self, device: Any, sensor: int, answer: Any) -> int:  # noqa: N802
        answer._obj.value = 61
        return sensor

    def nvmlDeviceGetClockInfo(self, device: Any, kind: int, answer: Any) -> int:  # noqa: N802
        answer._obj.value = 1980
        return 3 if kind == 2 else 0  # NVML_ERROR_NOT_SUPPORTED

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: Any, answer: Any) -> int:  # noqa: N802
        answer._obj.value = 0x41  # idle, and too hot
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, answer: Any) -> int:  # noqa: N802
        answer._obj.value = self.millijoules
        return 0


def test_desktop_gpu_is_read_through_nvml(tmp_path: Path) -> None:
    library = FakeNvmlLibrary()
    nvml = Nvml.open(library)
    sensors = Sensors(tmp_path, nvml)
    reading = sensors.read()
    assert "no readable clock in cpufreq" in sensors.unreadable["clocks"]
    assert sensors.unreadable["clocks"].endswith("; the GPU's are read")
    assert (reading.temperatures_c, reading.clocks_mhz) == ({"gpu": 61}, {"gpu": 1980})
    assert throttle_causes([reading]) == ["gpu too hot (hardware)"]
    meter = find_energy_meter(tmp_path, nvml)
    assert isinstance(meter, NvmlMeter)
    meter.start()
    library.millijoules += 1500
    assert meter.stop() == pytest.approx(1.5)


class JetsonNvmlLibrary(FakeNvmlLibrary):
    """NVML of JetPack: queries answer zero, or are missing."""

    millijoules = 0
    nvmlDeviceGetCurrentClocksThrottleReasons = None  # type: ignore[assignment]  # noqa: N815

    def nvmlDeviceGetTemperature(self, device: Any, sensor: int, answer: Any) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetClockInfo(self, device: Any, kind: int, answer: Any) -> int:  # noqa: N802
        return 0


def test_zero_of_nvml_is_no_clock_temperature_or_energy(tmp_path: Path) -> None:
    nvml = Nvml.open(JetsonNvmlLibrary())
    assert nvml is not None
    sensors = Sensors(tmp_path, nvml)
    reading = sensors.read()
    assert (reading.temperatures_c, reading.clocks_mhz, reading.throttle) == ({}, {}, {})
    assert "the GPU's are read" not in sensors.unreadable["clocks"]
    assert nvml.total_energy_j() is None
    meter = find_energy_meter(tmp_path, nvml)
    assert not isinstance(meter, NvmlMeter)
