"""The live page as a sink: results go to whoever looks at it."""

from __future__ import annotations

from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.web.auth import parse_access_policy
from edge.sinks.web.live_view import LiveView
from edge.sinks.web.server import LivePageServer


class HttpSink:
    """Serves the page at `:PORT` (to this machine) or `HOST:PORT` (to all who have the token).

    Raises:
        InputError: an address that cannot be, or is taken; a token that is easily guessed.
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
        self._open = True

    @property
    def url(self) -> str:
        """What to type into a browser."""
        return self._server.door.url(self._server.port)

    def write(self, result: Result) -> None:
        """Keep the result for who looks."""
        self._view.take(result)

    def finish(self) -> None:
        """Nothing is left to write."""

    def commit(self) -> None:
        """Close the page."""
        if self._open:
            self._open = False
            self._server.close()

    def discard(self) -> None:
        """Close the page."""
        self.commit()
