"""Checks of the GPU on trees of machines, with a stand-in for the driver."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.diagnostics.finding import Finding
from edge.diagnostics.gpu import check_gpu
from edge.hardware.board import read_board_facts
from edge.hardware.cuda_driver import DriverAnswer, ask_driver
from edge.hardware.device_nodes import DeviceNode, list_nodes
from edge.hardware.gpu import find_remedy
from tests.support.machines import ORIN_NODES, StandInDriver, StandInPackages, write_orin
from tests.support.sensor_trees import write_tree

NOTHING = StandInPackages({})
NO_LIBRARY = DriverAnswer(None, problem="libcuda.so.1: cannot open shared object file")
REFUSED = os.strerror(errno.EACCES)
DESKTOP_NODES = tuple(
    DeviceNode(name, "root", 0o666, "", False) for name in ("nvidia0", "nvidiactl", "nvidia-uvm")
)


def _check(
    root: Path, answer: DriverAnswer, refused: tuple[str, ...] = (), packages: StandInPackages = NOTHING
) -> dict[str, Finding]:
    nodes = list_nodes(root, lambda path: REFUSED if path.name in refused else "")
    return {
        finding.subject: finding
        for finding in check_gpu(root, read_board_facts(root), answer, nodes, packages)
    }


def test_machine_without_a_gpu_lacks_nothing(tmp_path: Path) -> None:
    findings = _check(tmp_path, NO_LIBRARY)
    assert {finding.state for finding in findings.values()} == {"none"}
    assert findings["NVIDIA driver"].text == "no NVIDIA GPU: aerogaze runs on the CPU"


def test_gpu_without_a_driver_lacks_it(tmp_path: Path) -> None:
    card = "sys/bus/pci/devices/0000:01:00.0"
    write_tree(tmp_path, {f"{card}/vendor": "0x10de\n", f"{card}/class": "0x030000\n"})
    findings = _check(tmp_path, NO_LIBRARY)
    assert findings["NVIDIA driver"].state == "lacks"
    assert findings["NVIDIA driver"].remedy == "sudo ubuntu-drivers install"
    assert findings["TensorRT"].remedy == "pip install 'aerogaze[rtx]'"


def test_container_without_the_driver_library_is_named(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26\n"
    findings = _check(
        write_tree(tmp_path, {"proc/driver/nvidia/version": version, "dev/nvidia0": ""}), NO_LIBRARY
    )
    assert "kernel module 570.124.06" in findings["NVIDIA driver"].text
    assert findings["NVIDIA driver"].remedy.startswith("docker run --gpus all")


def test_working_board_names_its_gpu_and_its_nodes(tmp_path: Path) -> None:
    write_tree(
        write_orin(tmp_path),
        {"etc/systemd/system/aerogaze.service": "SupplementaryGroups=video dialout render\n"},
    )
    tensorrt = SimpleNamespace(__version__="10.3.0", Builder=object)
    modules = {"tensorrt": tensorrt, "edge.inference.cuda.bindings": SimpleNamespace()}
    packages = StandInPackages(modules, {"cuda-bindings": "12.9.1"})
    findings = _check(tmp_path, ask_driver(StandInDriver()), packages=packages)
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert findings["GPU"].text == "Orin (compute capability 8.7)"
    assert "Jetson Orin Nano" in findings["NVIDIA driver"].text
    assert "CUDA 12.6" in findings["NVIDIA driver"].text
    assert findings["Device nodes"].text.startswith("open to this user: nvmap, nvhost* (3), nvgpu/* (2)")
    assert findings["CUDA backend"].text == "pycuda not installed, cuda-bindings 12.9.1"


def test_refused_render_node_is_named_with_its_group_and_the_users(tmp_path: Path) -> None:
    findings = _check(write_orin(tmp_path), ask_driver(StandInDriver(801)), ("renderD128",))
    nodes = findings["Device nodes"]
    assert "refused to this user: dri/renderD128 (group render, 660)" in nodes.text
    assert "refused to the service's user aerogaze: " in nodes.text
    assert "sudo usermod -aG render $USER; then log in again" in nodes.remedy
    assert "sudo usermod -aG render aerogaze" in nodes.remedy
    assert findings["GPU"].text == "cuInit gives 801, CUDA_ERROR_NOT_SUPPORTED"
    assert findings["GPU"].remedy.startswith("sudo usermod -aG render $USER")


def test_board_without_a_render_node_lacks_it(tmp_path: Path) -> None:
    write_orin(tmp_path, tuple(node for node in ORIN_NODES if "render" not in node))
    findings = _check(tmp_path, ask_driver(StandInDriver(801)))
    assert findings["Render node"].state == "lacks"
    assert "/dev/dri/renderD*" in findings["GPU"].remedy


def test_node_refused_by_the_rules_of_a_container_needs_no_group(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"dev/nvidia0": ""})
    nodes = list_nodes(root, lambda path: os.strerror(errno.EPERM))
    findings = {
        finding.subject: finding
        for finding in check_gpu(root, read_board_facts(root), ask_driver(StandInDriver(100)), nodes, NOTHING)
    }
    assert "docker run" in findings["Device nodes"].remedy


@pytest.mark.parametrize(
    ("code", "nodes", "environment", "remedy"),
    [
        (100, (), {"CUDA_VISIBLE_DEVICES": ""}, "unset CUDA_VISIBLE_DEVICES"),
        (100, (), {}, "docker run --gpus all"),
        (801, DESKTOP_NODES, {}, "update the driver"),
        (803, DESKTOP_NODES, {}, "sudo reboot"),
        (999, DESKTOP_NODES[:2], {}, "sudo nvidia-modprobe -u"),
        (999, DESKTOP_NODES, {}, "sudo modprobe nvidia_uvm"),
        (802, DESKTOP_NODES, {}, "nvidia-fabricmanager"),
        (34, DESKTOP_NODES, {}, "LD_LIBRARY_PATH"),
        (12345, DESKTOP_NODES, {}, "dmesg"),
    ],
)
def test_each_error_of_cuinit_has_its_own_remedy(
    tmp_path: Path, code: int, nodes: tuple[DeviceNode, ...], environment: dict[str, str], remedy: str
) -> None:
    assert remedy in find_remedy(code, read_board_facts(tmp_path), nodes, environment)


def test_backend_and_tensorrt_that_do_not_load_say_why(tmp_path: Path) -> None:
    modules = {
        "tensorrt": ImportError("libnvinfer.so.10: cannot open shared object file"),
        "tensorrt_rtx": SimpleNamespace(__version__="1.7"),
        "edge.inference.cuda.bindings": RuntimeError("no symbol"),
    }
    packages = StandInPackages(modules, {"cuda-bindings": "13.0"})
    findings = _check(write_orin(tmp_path), ask_driver(StandInDriver()), packages=packages)
    assert "cuda-bindings 13.0 does not load (no symbol)" in findings["CUDA backend"].text
    assert "aerogaze[cuda12]" in findings["CUDA backend"].remedy
    assert "TensorRT does not load (libnvinfer.so.10" in findings["TensorRT"].text
    assert "TensorRT for RTX does not load (its libraries are missing)" in findings["TensorRT"].text
    assert "python3-libnvinfer" in findings["TensorRT"].remedy
