"""Values of the options of `aerogaze run` for one camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.cli.run.cameras import Camera, check_names, output_path, pick
from edge.cli.run.sink_options import SinkOptions
from edge.core.frames import DeviceRequest, Source
from edge.inference.clip_window_runner import WindowChoice
from edge.inference.engine_selection import EngineChoice
from edge.inference.saliency_model import SaliencyModel
from edge.sinks.files.output_stream import standard_stream
from edge.sources.factory import is_camera, open_source


@dataclass(frozen=True)
class RunOptions:
    """Values of the options of `aerogaze run`; None means the default.

    Attributes:
        camera: The camera.
        release: Folder of a release, or the name of a shipped one.
        precision: Precision of the graph.
        engine: Inference engine.
        window: How frames become the clips of a network that takes several.
        blur: Sigma of the Gaussian that blurs the maps, in widths of the map.
        min_score: Score from which a region is reported.
        max_frames: Number of frames after which the run ends.
        fps: Frame rate of the source.
        overlay: Path of the overlay video.
        jsonl: Path of the JSON lines.
        maps: Path of the folder of maps.
        mcap: Path of the recording for Foxglove.
        ros2: Namespace of the ROS 2 topics; None for none.
        threads: Threads of inference.
        realtime: Run live, on the newest frame, instead of on every frame.
        small: Let the source shrink its frames.
        as_json: Print the summary as JSON.
        network: Options of the camera's angles, places, and the sinks that use the network.
    """

    camera: Camera
    release: str | None
    precision: str | None
    engine: EngineChoice
    window: WindowChoice | None
    blur: float | None
    min_score: float | None
    max_frames: int | None
    fps: float | None
    overlay: Path | None
    jsonl: Path | None
    maps: Path | None
    mcap: Path | None
    ros2: str | None
    threads: int
    realtime: bool | None
    small: bool | None
    as_json: bool
    network: SinkOptions

    @classmethod
    def of_camera(
        cls, camera: Camera, cameras: Sequence[Camera], values: Mapping[str, Any], network: SinkOptions
    ) -> RunOptions:
        """Return the options of one camera of a run.

        Args:
            camera: The camera.
            cameras: All cameras of the run.
            values: Values of the options by name, as the command line gives them.
            network: Options of the camera's network outputs.

        Raises:
            InputError: An option is not valid for these cameras.
        """
        check_names("--fps", values["fps"], cameras)
        names = ("overlay", "jsonl", "maps", "mcap")
        paths = {name: output_path(values[name], f"--{name}", camera, cameras) for name in names}
        ros2 = f"{values['ros2']}/{camera.name}" if values["ros2"] and camera.name else values["ros2"]
        own = {**paths, "fps": pick(values["fps"], camera.name), "ros2": ros2}
        return cls(**{**values, **own}, camera=camera, network=network)

    @property
    def is_live(self) -> bool:
        """Whether the run is live."""
        return is_camera(self.camera.source) if self.realtime is None else self.realtime

    @property
    def outputs(self) -> dict[str, Path | None]:
        """Path of each output by the name of its sink."""
        files = {"overlay": self.recorded_overlay, "jsonl": self.jsonl, "maps": self.maps, "mcap": self.mcap}
        return {**files, "geojson": self.network.geojson}

    @property
    def uses_stdout(self) -> bool:
        """Whether JSON lines go to the standard output, so that nothing else may."""
        return self.jsonl is not None and standard_stream(self.jsonl) == 1

    @property
    def recorded_overlay(self) -> Path | None:
        """Path of the overlay video. A live run records Matroska: a killed one leaves an MP4 unreadable."""
        if self.overlay is not None and self.is_live and self.overlay.suffix.lower() == ".mp4":
            return self.overlay.with_suffix(".mkv")
        return self.overlay

    def open_model(self) -> SaliencyModel:
        """Open the model."""
        model = SaliencyModel(self.release, self.precision, self.threads, self.engine, self.window)
        if self.blur is not None:
            model.blur = self.blur
        return model

    def open_source(self, min_size: tuple[int, int] | None, device: DeviceRequest | None = None) -> Source:
        """Open the source, which may shrink its frames to `min_size` (width, height)."""
        return open_source(self.camera.source, min_size, self.is_live, self.fps, device)

    def min_source_size(self, model: SaliencyModel) -> tuple[int, int] | None:
        """Return the size to which the source may shrink its frames; None for full frames."""
        takes_raw_frames = model.release.raw_frame is not None
        if takes_raw_frames or not self._may_shrink:
            return None
        return model.release.preprocessing.min_source_size

    def device_request(self, model: SaliencyModel) -> DeviceRequest | None:
        """Return how the source can keep frames in the GPU's memory; None if the model does not take them."""
        raw = model.release.raw_frame
        if raw is None or not model.takes_device_frames:
            return None
        from edge.inference.cuda.egl_images import CudaEglImageReader

        preprocessing = model.release.preprocessing
        height, width = preprocessing.resized_shape
        # Viewers and the estimate of the camera's motion use the picture. Else its size does not matter.
        is_used = self._is_viewed or preprocessing.alignment is not None
        min_picture = (width, height) if self._may_shrink or not is_used else None
        return DeviceRequest(CudaEglImageReader(raw.width, raw.height), min_picture)

    @property
    def _may_shrink(self) -> bool:
        """Whether the source may shrink its frames."""
        return not self._is_viewed and (self.is_live if self.small is None else self.small)

    @property
    def _is_viewed(self) -> bool:
        """Whether somebody may look at the frames, so that they must not be small."""
        outputs = self.overlay, self.mcap, self.ros2
        return any(output is not None for output in outputs) or self.network.is_viewed
