"""The live page as a sink: results go to whoever looks at it."""

from __future__ import annotations

from edge.core.run_status import Status
from edge.postprocessing.camera_geometry import Camera
from edge.postprocessing.result import Look, Result, as_it_is
from edge.sinks.web.auth import door_at
from edge.sinks.web.live_view import View
from edge.sinks.web.server import Server


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
        look: Look = as_it_is,
        camera: Camera | None = None,
    ) -> None:
        self._view = View(status, look, camera)
        self._server = Server(door_at(address, token), self._view)
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
