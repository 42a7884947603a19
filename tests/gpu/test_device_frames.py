"""Frames that stay in the GPU's memory, from the pipeline to the map, on stand-ins for a Jetson's libraries.

GStreamer and NvBufSurface are `standin/jetson.c`, CUDA's driver is `standin/cuda.c`, and TensorRT is ONNX
Runtime. The tests show that each library is called with valid arguments in a valid order, that nothing is
kept, and that the maps are those of the CPU path. They do not show that a Jetson does what the stand-ins do.
"""

from __future__ import annotations

import json
import struct
import weakref
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import DeviceFrame, Image
from edge.inference.runner_factory import graph_signature
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.runner import TensorRTRunner
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.release.manifest import load_release
from edge.sources.factory import open_source
from tests.gpu.conftest import Process, Start
from tests.support.simulated_gpu import OnnxEngine, SimulatedCuda

VIDEO = Path(__file__).parents[1] / "edge" / "sources" / "videos" / "phone.webm"
RAW = RawFrameSpec(64, 48, "nv12")
"""The size of the video. Its frames are small, so the pictures for the CPU are as large."""
FRAMES = 16


@pytest.fixture(scope="session")
def images() -> list[Image]:
    """Return the frames of the video."""
    source = open_source(str(VIDEO))
    images = [frame.image for frame in source]
    source.close()
    assert len(images) == FRAMES
    return images


STAYS = f"aerogaze: frames of {VIDEO} stay in the GPU's memory"
LEAVES = f"aerogaze: frames of {VIDEO} pass through the CPU's memory: "
Fly = Callable[..., tuple[Process, dict[str, bytes]]]


@pytest.fixture(scope="session")
def release(aerogaze: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns a student whose graph takes NV12, with an engine."""
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'aerogaze[export]'")
    pytest.importorskip(
        "cuda.bindings", reason="cuda-bindings is not installed: pip install 'aerogaze[cuda]'"
    )
    from export.release.fuse_release import make_fused_release

    made: dict[str, Path] = {}

    def release(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("raw") / name
            make_fused_release(load_release(name), RAW, folder)
            process = aerogaze("build", folder, "--target", "local")
            assert process.returncode == 0, process.stderr
            made[name] = folder
        return made[name]

    return release


@pytest.fixture(scope="session")
def recording(images: list[Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the frames of the video as the stand-in for GStreamer gives them."""
    path = tmp_path_factory.mktemp("recording") / "frames"
    with path.open("wb") as file:
        file.write(struct.pack("5i", RAW.width, RAW.height, RAW.width, RAW.height, FRAMES))
        for image in images:
            file.write(RAW(image).tobytes())
            file.write(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)).tobytes())
    return path


@pytest.fixture(scope="session")
def environment(driver: Path, jetson_libraries: Path, recording: Path) -> dict[str, str]:
    """Return the environment of a process that finds a Jetson's libraries and the recording."""
    return {"LD_LIBRARY_PATH": f"{driver}:{jetson_libraries}", "STANDIN_VIDEO": str(recording)}


@pytest.fixture(scope="session")
def fly(
    aerogaze: Start,
    release: Callable[[str], Path],
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Fly:
    """Return a function that runs a student on the video; it returns the process and the maps by name."""

    def run(name: str, source: str = f"hw:{VIDEO}", **settings: str) -> tuple[Process, dict[str, bytes]]:
        maps = tmp_path_factory.mktemp("flight") / "maps"
        words = ["run", source, "--release", release(name), "--precision", "fp32", "--maps", maps]
        process = aerogaze(*words, "--engine", "tensorrt", **{**environment, **settings})
        assert process.returncode == 0, process.stderr
        return process, {path.name: path.read_bytes() for path in maps.iterdir()}

    return run


@pytest.fixture(scope="session")
def expected_maps(fly: Fly) -> Callable[[str], dict[str, bytes]]:
    """Return a function that returns the maps of a student by the CPU path."""
    return cache(lambda name: fly(name, str(VIDEO))[1])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("skd-64", {}),
        ("skd-64-motion", {"STANDIN_BLOCKS": "1"}),
        ("skd-64-motion", {"STANDIN_INTEGRATED": "1"}),
    ],
    ids=["copied", "aligned, block-linear", "aligned, zero copy"],
)
def test_maps_of_frames_on_the_gpu_are_those_of_the_cpu_path(
    fly: Fly, expected_maps: Callable[[str], dict[str, bytes]], name: str, settings: dict[str, str]
) -> None:
    process, maps = fly(name, **settings)
    assert STAYS in process.stderr
    assert LEAVES not in process.stderr
    assert len(maps) == FRAMES
    assert maps == expected_maps(name)


def test_flight_goes_on_by_the_cpu_path_after_a_frame_that_cannot_be_mapped(
    fly: Fly, expected_maps: Callable[[str], dict[str, bytes]]
) -> None:
    process, maps = fly("skd-64-motion", STANDIN_FAILS="NvBufSurfaceMapEglImage", STANDIN_FROM="7")
    lines = process.stderr.splitlines()
    assert STAYS in lines
    assert f"{LEAVES}NvBufSurfaceMapEglImage refuses the frame" in lines
    assert maps == expected_maps("skd-64-motion")


@pytest.mark.parametrize("zero_copy", [False, True])
def test_runner_reads_a_frame_on_the_gpu_before_its_memory_is_used_again(
    release: Callable[[str], Path], images: list[Image], zero_copy: bool
) -> None:
    fused = load_release(release("skd-64"))
    graph = fused.graph("fp32", "stream", "tensorrt")
    cuda = SimulatedCuda("late", integrated=zero_copy)
    runner = TensorRTRunner(OnnxEngine(str(fused.path(graph)), cuda), cuda, graph_signature(fused, graph))
    expected = [runner.infer({"frame": RAW(image)})["saliency"].copy() for image in images]
    runner.reset()
    maps = []
    for index, image in enumerate(images):
        runner.submit({"frame": _frame_on(cuda, RAW(image))})
        if index >= runner.depth - 1:
            maps.append(runner.collect()["saliency"].copy())
    maps.append(runner.collect()["saliency"].copy())
    np.testing.assert_array_equal(maps, expected)
    with pytest.raises(InputError, match=r"frame is \(1, 24, 16\); expected \(1, 72, 64\)"):
        runner.submit({"frame": _frame_on(cuda, np.zeros((1, 24, 16), np.uint8))})
    runner.close()


@pytest.mark.parametrize("name", ["skd-64", "skd-64-motion"])
def test_engine_on_the_cpu_that_replaces_one_on_the_gpu_gets_a_copy(
    release: Callable[[str], Path], images: list[Image], name: str
) -> None:
    with SaliencyModel(release(name), "fp32", 1, "onnxruntime") as model:
        assert not model.takes_device_frames
        expected = [model.infer(model.prepare(image)) for image in images]
        model.reset()
        frames = [DeviceFrame(0, RAW.width, RAW.height, partial(RAW, image)) for image in images]
        pairs = zip(frames, images, strict=True)
        maps = [model.infer(model.prepare_device(frame, image)) for frame, image in pairs]
    np.testing.assert_array_equal(maps, expected)


def _frame_on(cuda: SimulatedCuda, nv12: Image) -> DeviceFrame:
    """Return a frame on the simulated GPU, whose memory is overwritten when nothing refers to it any more."""
    memory = cuda.allocate(nv12.size)
    content = cuda.bytes_at(memory.address)
    content[...] = nv12.reshape(-1)
    frame = DeviceFrame(memory.address, nv12.shape[2], nv12.shape[1] * 2 // 3, nv12.copy)
    weakref.finalize(frame, content.fill, 0xEE)
    return frame


OUT_OF_MEMORY = (
    "cuGraphicsEGLRegisterImage failed with CUDA_ERROR_OUT_OF_MEMORY: the GPU's memory is full: stop other "
    "programs that use it (see nvidia-smi or tegrastats)"
)
CASES = {
    "none": ({}, None),
    "no element": ({"STANDIN_FAILS": "gst_parse_launch"}, 'GStreamer: no element "nvv4l2decoder"'),
    "start": ({"STANDIN_FAILS": "gst_element_set_state"}, "GStreamer: the pipeline does not start"),
    "map": ({"STANDIN_FAILS": "gst_buffer_map"}, "GStreamer cannot map a buffer"),
    "EGL": ({"STANDIN_FAILS": "NvBufSurfaceMapEglImage"}, "NvBufSurfaceMapEglImage refuses the frame"),
    "CUDA": ({"STANDIN_FAILS": "cuGraphicsEGLRegisterImage"}, OUT_OF_MEMORY),
    "CUDA's memory": (
        {"STANDIN_FAILS": "cuMemAlloc"},
        OUT_OF_MEMORY.replace("cuGraphicsEGLRegisterImage", "cuMemAlloc_v2"),
    ),
    "stream": (
        {"STANDIN_FAILS": "cuStreamCreate"},
        OUT_OF_MEMORY.replace("cuGraphicsEGLRegisterImage", "cuStreamCreate"),
    ),
    "range": ({"STANDIN_FORMAT": "7"}, "a frame has full range (NvBufSurface 7); expected NV12, 16 to 235"),
    "format": (
        {"STANDIN_FORMAT": "19"},
        "a frame has another format (NvBufSurface 19); expected NV12, 16 to 235",
    ),
    "memory": ({"STANDIN_MEMORY": "2"}, "the buffer has NvBufSurface's memory type 2; expected 4"),
    "size": ({"STANDIN_GROWS_FROM": "0"}, "a frame is 128x96; expected 64x48"),
    "damage": ({"STANDIN_ERROR_FROM": "0"}, "GStreamer: Stream is damaged"),
    "late EGL": (
        {"STANDIN_FAILS": "NvBufSurfaceMapEglImage", "STANDIN_FROM": "7"},
        "NvBufSurfaceMapEglImage refuses the frame",
    ),
    "late size": ({"STANDIN_GROWS_FROM": "7"}, "a frame is 128x96; expected 64x48"),
    "late damage": ({"STANDIN_ERROR_FROM": "7"}, "GStreamer: Stream is damaged"),
}
"""Settings of the stand-ins, and why the CPU path takes over; None if it does not."""
READ_ALL = """
import ctypes, json, logging, os, sys
from edge.core.frames import DeviceRequest
from edge.inference.cuda.egl_images import CudaEglImageReader
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.sources.factory import open_source
lines = []
logging.getLogger("aerogaze").addHandler(type("Keep", (logging.Handler,), {
    "emit": lambda self, record: lines.append(record.getMessage())})())
raw = RawFrameSpec(64, 48, "nv12")
expected = [raw(frame.image).tobytes() for frame in open_source(sys.argv[1])]
for settings in json.loads(sys.argv[2]):
    os.environ.update(settings)
    source = open_source("hw:" + sys.argv[1], device=DeviceRequest(CudaEglImageReader(64, 48), None))
    places, right = [], []
    for frame in source:
        nv12 = frame.device.download() if frame.device else raw(frame.image)
        right.append(nv12.tobytes() == expected[frame.index] == raw(frame.image).tobytes())
        places.append(frame.device is not None)
    source.close()
    del source, frame, nv12
    left = ctypes.CDLL("libgstreamer-1.0.so.0").sta_jetson_left(), *(
        getattr(ctypes.CDLL("libcuda.so.1"), name)() for name in ("sta_left", "sta_retained"))
    print(json.dumps([lines, sum(places), len(right), all(right), left]))
    lines.clear()
    for name in settings:
        del os.environ[name]
"""


def test_frames_are_right_whatever_fails_and_one_line_says_why(
    start: Start, environment: dict[str, str]
) -> None:
    cases = json.dumps([settings for settings, _ in CASES.values()])
    process = start("-c", READ_ALL, VIDEO, cases, **environment)
    assert process.returncode == 0, process.stderr
    for (name, (settings, reason)), line in zip(CASES.items(), process.stdout.splitlines(), strict=True):
        lines, on_the_gpu, frames, are_right, left = json.loads(line)
        reasons = [text.partition("memory: ")[2] for text in lines if "pass through the CPU's memory" in text]
        assert reasons == ([reason] if reason else []), name
        late = name.startswith("late")
        assert (on_the_gpu, frames, are_right) == (7 if late else 0 if settings else FRAMES, FRAMES, True), (
            name
        )
        assert left == [0, 0, 0], name
