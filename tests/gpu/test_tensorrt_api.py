"""Tests of the TensorRT API without a GPU: the functions exist, and errors have their reason."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.core.errors import InputError
from edge.hardware.gpu import detect_gpu
from edge.inference.tensorrt import api as tensorrt_api
from edge.inference.tensorrt.api import TensorRTEngine, build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.release.manifest import load_release
from tests.support.cuda_backends import import_rtx

STANDIN = Path(__file__).parent / "standin" / "modules" / "tensorrt.py"
OBJECTS = {"runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext"}


def find_used_names() -> dict[str, set[str]]:
    """Return the names that `TensorRTEngine` uses of each object of TensorRT, read from its source."""
    tree = ast.parse(Path(tensorrt_api.__file__).read_text())
    users = ("TensorRTEngine", "_create_context")
    bodies = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name in users]
    names: dict[str, set[str]] = defaultdict(set)
    for node in (node for body in bodies for node in ast.walk(body)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).removeprefix("self._")
            if owner in (*OBJECTS, "trt"):
                names[owner].add(node.attr)
    return names


def test_used_names_are_found_in_the_source() -> None:
    names = find_used_names()
    assert {"set_tensor_address", "execute_async_v3", "get_tensor_shape", "set_input_shape"} <= names[
        "context"
    ]
    assert {"num_io_tensors", "get_tensor_name", "create_execution_context"} <= names["engine"]
    assert names["runtime"] == {"deserialize_cuda_engine", "engine_host_code_allowed"}


def test_tensorrt_for_rtx_has_every_used_name() -> None:
    trt: Any = import_rtx()
    for owner, names in find_used_names().items():
        target = getattr(trt, OBJECTS[owner]) if owner in OBJECTS else trt
        assert [name for name in names if not hasattr(target, name)] == []
    assert hasattr(trt.IExecutionContext, "is_stream_capturable")
    assert hasattr(trt.IRuntimeConfig, "dynamic_shapes_kernel_specialization_strategy")
    assert {kind for kind in tensorrt_api._DTYPES if not hasattr(trt.DataType, kind)} == set()


def test_engines_for_rtx_need_no_memory_that_is_allocated_per_run() -> None:
    trt: Any = import_rtx()
    config = trt.Builder(tensorrt_api._logger_of(trt)).create_builder_config()
    tensorrt_api._set_flags(trt, config)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_context_for_rtx_compiles_its_kernels_before_they_are_captured() -> None:
    trt: Any = import_rtx()
    config = SimpleNamespace(dynamic_shapes_kernel_specialization_strategy=None)
    engine = SimpleNamespace(
        create_runtime_config=lambda: config, create_execution_context=lambda runtime_config: runtime_config
    )
    assert tensorrt_api._create_context(trt, engine) is config
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert config.dynamic_shapes_kernel_specialization_strategy == eager


def test_graph_with_a_dynamic_batch_compiles_for_rtx() -> None:
    import_rtx()
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'aerogaze[export]'")
    from tests.support.onnx_graphs import batch_graph

    plan = build_plan(batch_graph().SerializeToString(), BuildTarget("rtx"))
    assert plan.data


@pytest.fixture(scope="module")
def plan() -> bytes:
    import_rtx()
    if detect_gpu() is not None:
        pytest.skip("needs a machine without a GPU: with one, the other tests run engines")
    release = load_release("skd-64")
    return build_plan(release.path(release.graph("fp32")).read_bytes(), BuildTarget("rtx")).data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda plan: plan, "CUDA driver version is insufficient"),  # loaded, and refused at its first stream
        (lambda plan: plan[:500], "header.size == blobSize failed"),
        (lambda plan: b"other" * 100, "magicTag"),
    ],
    ids=["whole", "cut", "other"],
)
def test_plan_that_cannot_be_loaded_is_refused_with_tensorrts_message(
    plan: bytes, damage: Any, message: str
) -> None:
    with pytest.raises(InputError, match=rf"tensorrt_rtx 1\.\S+ cannot load the engine \(.*{message}"):
        TensorRTEngine(damage(plan), "rtx")


TWO_RUNTIMES = """
import gc
import tensorrt_rtx as trt
from edge.inference.tensorrt import api
{patch}
first = trt.Runtime(api._logger_of(trt))
logger = api._logger_of(trt)
second = trt.Runtime(logger)
del first
gc.collect()
others = [bytearray(4096) for _ in range(1000)]  # take the memory that was freed
try:
    trt.get_plugin_registry().load_library("/nowhere/plugin.so")  # logs through the registered logger
except RuntimeError:
    pass
print("alive", any("plugin" in error for error in logger.take()))
"""


def run_two_runtimes(patch: str) -> subprocess.CompletedProcess[str]:
    """Free the first of two runtimes in a process, then make TensorRT log a global message."""
    import_rtx()
    words = [sys.executable, "-c", TWO_RUNTIMES.format(patch=patch)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_global_message_after_the_first_runtime_was_freed_reaches_the_logger() -> None:
    process = run_two_runtimes("")
    assert (process.returncode, process.stdout) == (0, "alive True\n"), process.stderr


def test_logger_of_each_runtime_would_lose_the_message_or_crash() -> None:
    process = run_two_runtimes("api._logger_of = api._make_logger")
    assert process.stdout != "alive True\n"


def test_errors_are_kept_by_thread() -> None:
    trt: Any = import_rtx()
    logger = tensorrt_api._logger_of(trt)
    in_thread: list[str] = []

    def fail_in_thread() -> None:
        logger.log(trt.ILogger.Severity.ERROR, "of the thread")
        in_thread.extend(logger.take())

    logger.log(trt.ILogger.Severity.ERROR, "of the test")
    logger.log(trt.ILogger.Severity.WARNING, "no error")
    thread = threading.Thread(target=fail_in_thread)
    thread.start()
    thread.join()
    assert in_thread == ["of the thread"]
    assert logger.take() == ["of the test"]
    assert logger.take() == []


def test_logger_starts_without_errors_of_earlier_work_and_keeps_the_last() -> None:
    trt: Any = import_rtx()
    logger = tensorrt_api._logger_of(trt)
    for number in range(tensorrt_api.MAX_ERRORS + 5):
        logger.log(trt.ILogger.Severity.ERROR, str(number))
    assert logger.take()[-1] == str(tensorrt_api.MAX_ERRORS + 4)
    logger.log(trt.ILogger.Severity.ERROR, "stale")
    assert tensorrt_api._logger_of(trt) is logger
    assert logger.take() == []


def test_stand_in_has_no_name_that_tensorrt_lacks() -> None:
    trt: Any = import_rtx()
    for node in ast.parse(STANDIN.read_text()).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            target = getattr(trt, node.name)
            names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            assert [name for name in names if not hasattr(target, name)] == []


def test_missing_tensorrt_package_is_reported() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("needs a Python without TensorRT, and this one has it")
    with pytest.raises(InputError, match=r"tensorrt cannot be imported .* comes with JetPack"):
        TensorRTEngine(b"", "tensorrt")
