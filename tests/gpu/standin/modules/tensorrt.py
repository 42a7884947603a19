"""Stand-in for TensorRT 10 in a process whose CUDA driver is `cuda.c`. It has only what aerogaze uses.

A plan is the graph itself after a few magic bytes and the ranges of batch sizes. ONNX Runtime runs it on the
given stream, through the driver's cuLaunchHostFunc, which a capture records like a kernel. The stand-in is
strict: shapes and addresses must be set, data types are TensorRT's, and a plan without the magic bytes is not
loaded.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort

__version__ = "10.3.0"
MAGIC = b"stand-in plan 10.3.0\n"
_DRIVER = ctypes.CDLL("libcuda.so.1")
_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KINDS = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8"}


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self):
        self._ready = True


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class IProfiler:
    def __init__(self):
        self._ready = True


class Dims(tuple):
    __slots__ = ()


class _Network:
    def __init__(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.graph, self.inputs = b"", []

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]


class _Tensor:
    def __init__(self, value):
        sides = value.type.tensor_type.shape.dim
        self.name = value.name
        self.shape = Dims(side.dim_value if side.HasField("dim_value") else -1 for side in sides)


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self.num_errors = network, 0

    def parse(self, data):
        model = onnx.load_from_string(data)
        self._network.graph = data
        self._network.inputs = [_Tensor(value) for value in model.graph.input]
        return True


class _Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, minimum, optimum, maximum):
        self.shapes[name] = [minimum, optimum, maximum]


class _Cache:
    def __init__(self, data):
        self._data = bytes(data) or b"measured"

    def serialize(self):
        return self._data


class _Config:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def __init__(self):
        self.profiles = []

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def clear_flag(self, flag):
        assert flag is BuilderFlag.TF32

    def create_timing_cache(self, data):
        return None if data == b"rubbish" else _Cache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        return not cache.serialize().startswith(b"of another GPU")


class Builder:
    def __init__(self, logger):
        assert logger._ready, "a logger must call ILogger.__init__"
        self._logger = logger

    def create_network(self, flags):
        return _Network(flags)

    def create_optimization_profile(self):
        return _Profile()

    def create_builder_config(self):
        return _Config()

    def build_serialized_network(self, network, config):
        assert config.profiling_verbosity is ProfilingVerbosity.DETAILED
        operators = {node.op_type for node in onnx.load_from_string(network.graph).graph.node}
        if operators & set(os.environ.get("STANDIN_REFUSES", "").split()):
            self._logger.log(
                ILogger.Severity.ERROR, "Error Code 10: Could not find any\nimplementation for node"
            )
            return None
        return memoryview(MAGIC + json.dumps(config.profiles).encode() + b"\n" + network.graph)


class Runtime:
    def __init__(self, logger):
        assert logger._ready
        self._logger, self.engine_host_code_allowed = logger, True

    def deserialize_cuda_engine(self, plan):
        assert not self.engine_host_code_allowed
        print("deserialised", file=sys.stderr)
        if not bytes(plan).startswith(MAGIC):
            self._logger.log(ILogger.Severity.ERROR, "magicTag failed")
            return None
        profiles, _, graph = bytes(plan)[len(MAGIC) :].partition(b"\n")
        return _Engine(graph, json.loads(profiles), self._logger)


class _Engine:
    def __init__(self, graph, profiles, logger):
        self._profiles, self._logger = profiles, logger
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.nodes = [(node.name, node.op_type) for node in onnx.load_from_string(graph).graph.node]
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {t.name: t for t in (*inputs, *outputs)}
        self._modes = {t.name: TensorIOMode.INPUT for t in inputs} | {
            t.name: TensorIOMode.OUTPUT for t in outputs
        }

    def __del__(self):
        if not _DRIVER.sta_retained():
            print("the engine was freed after the context", file=sys.stderr)

    @property
    def num_optimization_profiles(self):
        return max(1, len(self._profiles))

    def get_tensor_profile_shape(self, name, profile):
        return [Dims(sizes) for sizes in self._profiles[profile][name]]

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self._modes[name]

    def get_tensor_shape(self, name):
        return Dims(side if isinstance(side, int) else -1 for side in self.tensors[name].shape)

    def get_tensor_dtype(self, name):
        return DataType[_KINDS[self.tensors[name].type]]

    def create_execution_context(self):
        if os.environ.get("STANDIN_FAILS") == "create_execution_context":
            self._logger.log(ILogger.Severity.ERROR, "Error Code 2: OutOfMemory")
            return None
        return _Context(self, self._logger)

    def create_engine_inspector(self):
        return _Inspector(self)


class _Inspector:
    """Layers in the format of TensorRT 10's engine inspector, one per node."""

    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, form):
        assert form is LayerInformationFormat.JSON
        kinds = {"Cast": "Cast", "Transpose": "Reformat"}
        layers = [
            {
                "Name": f"layer {index}",
                "LayerType": kinds.get(op, "kgen"),
                "Inputs": [],
                "Outputs": [{"Name": name, "Format/Datatype": "Row major linear FP16 format"}],
                "Metadata": f"[ONNX Layer: {name}]",
            }
            for index, (name, op) in enumerate(self._engine.nodes)
        ]
        return json.dumps({"Layers": layers, "Bindings": list(self._engine.tensors)})


class _Context:
    def __init__(self, engine, logger):
        self._engine, self._bound, self._calls, self.profiler = engine, {}, [], None
        self._logger, self._shapes, self.active_optimization_profile = logger, {}, 0

    def set_optimization_profile_async(self, profile, stream):
        assert stream
        self.active_optimization_profile = profile
        return profile < self._engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        self._shapes[name] = shape
        return all(a <= side <= b for a, side, b in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name):
        """Return the shape; the dynamic dimension is the batch, the same for all tensors."""
        shape = self._engine.get_tensor_shape(name)
        batch = next((shape[0] for shape in self._shapes.values()), -1)
        return Dims(batch if side == -1 else side for side in shape)

    def set_tensor_address(self, name, address):
        assert isinstance(address, int)
        known = name in self._engine.tensors
        self._bound[name] = address
        return known

    def execute_async_v3(self, stream_handle):
        assert isinstance(stream_handle, int)
        assert stream_handle, "the default stream cannot be captured"
        engine, bound = self._engine, dict(self._bound)
        if bound.keys() != engine.tensors.keys():
            return False
        if os.environ.get("STANDIN_FAILS") == "execute_async_v3":
            words = "Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
            self._logger.log(ILogger.Severity.ERROR, words)
            return False
        shapes = {name: self.get_tensor_shape(name) for name in engine.tensors}

        def view(name):
            tensor = engine.tensors[name]
            dtype = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}[_KINDS[tensor.type]]
            size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
            memory = (ctypes.c_ubyte * size).from_address(bound[name])
            return np.frombuffer(memory, dtype).reshape(shapes[name])

        def run(_):
            feed = {t.name: view(t.name) for t in engine.session.get_inputs()}
            values = engine.session.run(None, feed)
            for tensor, value in zip(engine.session.get_outputs(), values, strict=True):
                view(tensor.name)[...] = value

        if self.profiler is not None:
            assert self.profiler._ready, "a profiler must call IProfiler.__init__"
            for index in range(len(engine.nodes)):
                self.profiler.report_layer_time(f"layer {index}", 0.001 * (index + 1))
        call = _CALL(run)
        self._calls.append(call)  # a captured graph may call it later
        return _DRIVER.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), call, None) == 0
