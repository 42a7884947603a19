"""The public names of each package: few, documented, and imported only when they are used."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

PACKAGES = ("edge", "calibration", "trainer", "export", "jetson")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_there_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert inspect.getdoc(value), f"{package}.{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_no_library(package: str) -> None:
    libraries = {"numpy", "cv2", "onnx", "onnxruntime", "torch"}
    code = f"import sys, {package}; print(sorted({libraries} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
