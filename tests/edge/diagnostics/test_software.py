"""Checks of Python packages on stand-ins for an environment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge.diagnostics.finding import Finding
from edge.diagnostics.software import check_software, run_first_map
from tests.support.machines import BUILD, StandInPackages, drone_modules


def _check(packages: StandInPackages, first_map: str = "a map") -> dict[str, Finding]:
    return {finding.subject: finding for finding in check_software(packages, lambda: first_map)}


def test_complete_environment_lacks_nothing() -> None:
    findings = _check(StandInPackages(drone_modules(), {"aerogaze": "0.2.0"}))
    assert {finding.state for finding in findings.values()} == {"ok", "none"}
    assert findings["OpenCV"].text == "4.10.0: FFmpeg yes, GStreamer yes, V4L2 yes"
    assert findings["ONNX Runtime"].text == "1.20.0; providers CPU"
    assert findings["aerogaze"].text == "0.2.0"
    assert "pip install 'aerogaze[" in findings["Extras"].remedy


@pytest.mark.parametrize(
    ("module", "subject", "remedy"),
    [
        ("numpy", "numpy", "pip install --upgrade 'numpy>=1.26'"),
        ("cv2", "OpenCV", "pip install --upgrade 'opencv-python-headless>=4.10'"),
        ("onnxruntime", "ONNX Runtime", "pip install --upgrade 'onnxruntime>=1.20'"),
    ],
)
def test_missing_package_fails_with_the_command_that_installs_it(
    module: str, subject: str, remedy: str
) -> None:
    modules = drone_modules()
    del modules[module]
    findings = _check(StandInPackages(modules))
    assert (findings[subject].state, findings[subject].remedy) == ("fails", remedy)
    assert findings["First map"].text == f"not tried: repair {subject} first"


def test_opencv_with_windows_on_a_machine_without_them_is_replaced() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    findings = _check(StandInPackages({**drone_modules(), "cv2": error}))
    assert findings["OpenCV"].state == "fails"
    assert "opencv-python-headless" in findings["OpenCV"].remedy


@pytest.mark.parametrize(
    ("backend", "remedy"), [("FFMPEG", "opencv-python-headless"), ("GStreamer", "python3-opencv")]
)
def test_opencv_without_a_backend_lacks_it(backend: str, remedy: str) -> None:
    build = "\n".join(line.replace("YES", "NO") if backend in line else line for line in BUILD.splitlines())
    findings = _check(StandInPackages(drone_modules(build)))
    assert findings["OpenCV"].state == "lacks"
    assert remedy in findings["OpenCV"].remedy


def test_onnx_runtime_without_a_cpu_provider_fails() -> None:
    runtime = SimpleNamespace(__version__="1.20.0", get_available_providers=list)
    findings = _check(StandInPackages({**drone_modules(), "onnxruntime": runtime}))
    assert findings["ONNX Runtime"].state == "fails"


def test_map_that_cannot_be_computed_fails_with_its_reason() -> None:
    def fail() -> str:
        raise OSError("release.json is damaged")

    findings = {
        finding.subject: finding for finding in check_software(StandInPackages(drone_modules()), fail)
    }
    assert (findings["First map"].state, findings["First map"].text) == ("fails", "release.json is damaged")


def test_first_map_runs_the_shipped_release() -> None:
    assert run_first_map().startswith("skd-64-motion ")
