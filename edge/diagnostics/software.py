"""Checks of Python, its packages, and a first map on ONNX Runtime."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from edge.core.remedies import SYSTEM_OPENCV
from edge.diagnostics.finding import Finding, State
from edge.diagnostics.packages import Packages

EXTRAS = {
    "train": "torch",
    "export": "onnx",
    "rtx": "tensorrt_rtx",
    "mavlink": "pymavlink",
    "metrics": "prometheus_client",
    "jetson": "cryptography",
    "flash": "asyncssh",
}
"""A module that each set of optional dependencies installs."""
WINDOWLESS_OPENCV = "pip uninstall opencv-python && pip install --force-reinstall opencv-python-headless"


def run_first_map() -> str:
    """Open the default release on ONNX Runtime, which also checks its maps of the golden frames.

    Returns:
        The release, its precision, and the seconds it took.
    """
    from edge.inference.saliency_model import SaliencyModel  # imports numpy, which may be missing

    started = time.perf_counter()
    with SaliencyModel(None, None, 1, "onnxruntime") as model:
        seconds = time.perf_counter() - started
        return (
            f"{model.release.name} {model.precision} gives its golden maps ({seconds:.1f} s with the start)"
        )


def check_software(packages: Packages, first_map: Callable[[], str] = run_first_map) -> Iterator[Finding]:
    """Check what every run needs.

    Args:
        packages: Packages of the environment.
        first_map: Computes a map and says how; raises an error if that fails.
    """
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding("Python", "ok", f"{platform.python_version()}, {system}")
    yield Finding("aerogaze", "ok", packages.version("aerogaze") or "not installed as a package")
    needed = [_check_numpy(packages), _check_opencv(packages), _check_onnxruntime(packages)]
    yield from needed
    broken = [finding.subject for finding in needed if finding.state == "fails"]
    if broken:
        yield Finding("First map", "fails", f"not tried: repair {', '.join(broken)} first")
    else:
        yield _check_first_map(first_map)
    yield _list_extras(packages)


def _load(packages: Packages, subject: str, module: str, distribution: str) -> tuple[Any, Finding | None]:
    """Return a module, or the finding that it cannot be imported."""
    try:
        return packages.load(module), None
    except ImportError as error:
        text = f"cannot be imported ({' '.join(str(error).split())})"
        if "libGL" in text:  # the OpenCV with windows, on a machine without a window system
            return None, Finding(subject, "fails", text, WINDOWLESS_OPENCV)
        return None, Finding(subject, "fails", text, f"pip install --upgrade '{distribution}'")


def _check_numpy(packages: Packages) -> Finding:
    module, problem = _load(packages, "numpy", "numpy", "numpy>=1.26")
    return problem or Finding("numpy", "ok", str(module.__version__))


def _check_opencv(packages: Packages) -> Finding:
    module, problem = _load(packages, "OpenCV", "cv2", "opencv-python-headless>=4.10")
    if problem:
        return problem
    build = str(module.getBuildInformation())
    backends = {name: _has_backend(build, key) for name, key in _BACKENDS.items()}
    listed = ", ".join(f"{name} {'yes' if present else 'no'}" for name, present in backends.items())
    text = f"{module.__version__}: {listed}"
    if not backends["FFmpeg"]:
        return Finding("OpenCV", "lacks", f"{text}; no video files", "pip install opencv-python-headless")
    if not backends["GStreamer"]:
        return Finding("OpenCV", "lacks", f"{text}; csi: and gst: need GStreamer", SYSTEM_OPENCV)
    return Finding("OpenCV", "ok", text)


_BACKENDS = {"FFmpeg": "FFMPEG", "GStreamer": "GStreamer", "V4L2": "v4l/v4l2"}


def _has_backend(build: str, name: str) -> bool:
    return re.search(rf"{re.escape(name)}:\s+YES", build) is not None


def _check_onnxruntime(packages: Packages) -> Finding:
    module, problem = _load(packages, "ONNX Runtime", "onnxruntime", "onnxruntime>=1.20")
    if problem:
        return Finding("ONNX Runtime", "fails", problem.text, problem.remedy)
    providers = [name.removesuffix("ExecutionProvider") for name in module.get_available_providers()]
    state: State = "ok" if "CPU" in providers else "fails"
    remedy = "" if state == "ok" else "pip install --force-reinstall onnxruntime"
    return Finding(
        "ONNX Runtime", state, f"{module.__version__}; providers {', '.join(providers) or 'none'}", remedy
    )


def _check_first_map(first_map: Callable[[], str]) -> Finding:
    try:
        return Finding("First map", "ok", first_map())
    except Exception as error:  # whatever stops a run is what the user wants to read here
        text = " ".join(str(error).split()) or type(error).__name__
        return Finding("First map", "fails", text, "pip install --force-reinstall aerogaze")


def _list_extras(packages: Packages) -> Finding:
    """List the optional dependencies; a machine needs only those of its task."""
    installed = [extra for extra, module in EXTRAS.items() if packages.is_installed(module)]
    missing = [extra for extra in EXTRAS if extra not in installed]
    text = f"installed: {', '.join(installed) or 'none'}"
    if missing:
        text += f"; not installed: {', '.join(missing)}"
    remedy = f"pip install 'aerogaze[{missing[-1]}]', for example" if missing else ""
    return Finding("Extras", "none" if missing else "ok", text, remedy)
