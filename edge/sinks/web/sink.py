"""Live page sink: serves the results of a run to browsers."""

from __future__ import annotations

import copy

from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.web.auth import parse_access_policy
from edge.sinks.web.live_view import LiveView
from edge.sinks.web.server import LivePageServer


class HttpSink:
    """Serves a live page at `:PORT` (to this machine only) or `HOST:PORT` (to clients with the token).

    Args:
        address: Address to serve at.
        token: Access token; None generates one if other machines can reach the address.
        status: Status to show.
        transform: Applied to results while the page has viewers, for example to find regions.
        camera: Adds bearing and elevation to each region.

    Raises:
        InputError: The address is invalid or in use, or the token is easy to guess.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        status: Status,
        transform: ResultTransform = identity,
        camera: CameraGeometry | None = None,
    ) -> None:
        self._view = LiveView(status, transform, camera)
        self._server = LivePageServer(parse_access_policy(address, token), self._view)
        self._is_open = True

    def add_camera(
        self, status: Status, transform: ResultTransform, camera: CameraGeometry | None
    ) -> HttpSink:
        """Return the sink of one more camera on the same page, which is served until all have ended."""
        sink = copy.copy(self)
        sink._view = LiveView(status, transform, camera)
        self._server.add_view(sink._view)
        return sink

    @property
    def url(self) -> str:
        """URL of the page, with the token if it was generated."""
        return self._server.access.url(self._server.port)

    def write(self, result: Result) -> None:
        """Make the result available to clients."""
        self._view.update(result)

    def finish(self) -> None:
        """Do nothing: no output is pending."""

    def commit(self) -> None:
        """End this camera's part; with the last camera, stop serving."""
        if self._is_open:
            self._is_open = False
            self._server.end_view()

    def discard(self) -> None:
        """Do the same as `commit`."""
        self.commit()
