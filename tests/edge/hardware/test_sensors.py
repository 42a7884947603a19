"""Sensors and energy meters on file trees as the documentation of the kernel and of NVIDIA describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.hardware.energy_meters import Ina3221Meter, NvmlMeter, RaplMeter, find_energy_meter
from edge.hardware.nvml import Nvml
from edge.hardware.sensors import Sensors, throttle_causes

ORIN = {  # Jetson Linux Developer Guide: thermal zones, cooling devices, devfreq, hwmon of an Orin NX
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51250\n",
    "sys/class/thermal/thermal_zone10/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone10/temp": "52000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1510400\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1400\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "400\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "2\n",
}
DESK = {  # Documentation/power/powercap, cpufreq and the x86 thermal_throttle ABI
    "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone0/temp": "64000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "999000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000000000\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "5\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_is_read(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, ORIN))
    reading = sensors.read()
    assert reading.temperatures_c == {"cpu-thermal": 51.25, "tj-thermal": 52.0}
    assert reading.clocks_mhz == {"cpu 0": 1510.4, "gpu 17000000.gpu": pytest.approx(918)}
    assert sensors.governors == {"cpu 0": "schedutil", "gpu 17000000.gpu": "nvhost_podgov"}
    assert sensors.unreadable == {}
    assert throttle_causes([reading]) == []  # a fan takes no speed away; old events are old


@pytest.mark.parametrize(
    ("files", "name", "text", "cause"),
    [
        (ORIN, "sys/class/thermal/cooling_device1/cur_state", "1", "cpu-throttle-alert"),
        (ORIN, "sys/class/hwmon/hwmon2/oc1_event_cnt", "3", "too much current (oc1)"),
        (DESK, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "8", "cpu core too hot"),
    ],
)
def test_throttling_between_two_readings_is_seen(
    tmp_path: Path, files: dict[str, str], name: str, text: str, cause: str
) -> None:
    sensors = Sensors(tree(tmp_path, files))
    before = sensors.read()
    (tmp_path / name).write_text(text)
    assert throttle_causes([before, sensors.read()]) == [cause]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    sensors = Sensors(tmp_path)
    assert sorted(sensors.unreadable) == ["clocks", "temperatures", "throttling"]
    assert "a container, a virtual machine, or no permission" in sensors.unreadable["clocks"]
    assert sensors.read().temperatures_c == {}


def test_a_sensor_that_falls_silent_is_left_out(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, ORIN))
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("no number")
    assert list(sensors.read().temperatures_c) == ["tj-thermal"]


def test_a_jetsons_power_is_that_of_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = find_energy_meter(tree(tmp_path, ORIN))
    assert isinstance(meter, Ina3221Meter)
    assert "VDD_IN" in meter.description
    clock = iter([10.0, *[10.1] * 1000])
    monkeypatch.setattr("edge.hardware.energy_meters.time.monotonic", lambda: next(clock, 12.0))
    meter.start()
    assert meter.stop() == pytest.approx(7.0 * 0.1)  # 5 V, 1.4 A, a tenth of a second


def test_rails_are_added_where_none_carries_all(tmp_path: Path) -> None:
    files = {**ORIN, "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU_SOC"}
    meter = find_energy_meter(tree(tmp_path, files))
    assert isinstance(meter, Ina3221Meter)
    assert "VDD_GPU_SOC + VDD_CPU_GPU_CV" in meter.description


def test_rapl_counts_packages_once_and_over_its_range(tmp_path: Path) -> None:
    meter = find_energy_meter(tree(tmp_path, DESK))
    assert isinstance(meter, RaplMeter)
    meter.start()
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("2000000")
    assert meter.stop() == pytest.approx(3.0)
    assert meter.description == "RAPL, package-0: the processor alone"


def test_no_meter_and_no_permission_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no power monitor" in str(find_energy_meter(tmp_path))
    place = tree(tmp_path, DESK) / "sys/class/powercap/intel-rapl:0/energy_uj"
    read = Path.read_text

    def refused(self: Path, *words: Any, **more: Any) -> str:
        if self == place:  # root may read all: permission is taken away here
            raise PermissionError(13, "Permission denied")
        return read(self, *words, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    assert "only root may read RAPL" in str(find_energy_meter(tmp_path))


def test_a_jetsons_monitor_that_root_alone_may_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, ORIN)
    read = Path.read_text

    def refused(self: Path, *words: Any, **more: Any) -> str:
        if self.name == "in1_label":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *words, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    assert "in1_label: Permission denied): run as root" in str(find_energy_meter(tmp_path))


class Driver:
    """Stands in for libnvidia-ml.so.1: answers through pointers, as nvml.h says."""

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


def test_a_desk_gpu_is_read_through_nvml(tmp_path: Path) -> None:
    driver = Driver()
    nvml = Nvml.open(driver)
    sensors = Sensors(tmp_path, nvml)
    reading = sensors.read()
    assert "no readable clock in cpufreq" in sensors.unreadable["clocks"]
    assert sensors.unreadable["clocks"].endswith("; the GPU's are read")
    assert (reading.temperatures_c, reading.clocks_mhz) == ({"gpu": 61}, {"gpu": 1980})
    assert throttle_causes([reading]) == ["gpu too hot (hardware)"]
    meter = find_energy_meter(tmp_path, nvml)
    assert isinstance(meter, NvmlMeter)
    meter.start()
    driver.millijoules += 1500
    assert meter.stop() == pytest.approx(1.5)
