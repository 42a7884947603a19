"""Client of hawkBit's Direct Device Integration (DDI): JSON over HTTPS, polled by the device.

gooseBit implements the same API. Paths and terms are those of the API (eclipse.dev/hawkbit/apis/ddi_api).
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from jetson.bundle.manifest import MAX_TOTAL_BYTES

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 1 << 20
MAX_BUNDLE_BYTES = MAX_TOTAL_BYTES + (1 << 20)
BLOCK_BYTES = 1 << 18
MAX_SLEEP_S = 86400
MAX_TEXT_CHARS = 4096
"""Longest link or file name that is taken from a server."""
FinishedState = Literal["none", "success", "failure"]
ALLOWED_NOW = ("attempt", "forced")
"""Values of `download` and `update` that allow the step now; "skip" forbids it."""


class ServerError(InputError):
    """The server cannot be reached, rejects the request, or its answer is invalid; can be tried again."""


@dataclass(frozen=True)
class PollResult:
    """Answer to a poll.

    Attributes:
        sleep_s: Seconds until the next poll.
        config_data: Link to send the device's attributes to; None if the server has them.
        deployment: Link to the deployment that is offered; None if there is none.
        cancel: Link to the deployment that was cancelled; None if there is none.
    """

    sleep_s: float
    config_data: str | None
    deployment: str | None
    cancel: str | None


@dataclass(frozen=True)
class Deployment:
    """A bundle that the server offers.

    Attributes:
        id: Id of the action on the server.
        feedback_url: Link for feedback.
        name: File name of the bundle.
        url: Link to the bundle.
        size_bytes: Size of the bundle.
        may_download: The server allows the download now.
        may_install: The server allows the install now, and a maintenance window, if any, is open.
    """

    id: str
    feedback_url: str
    name: str
    url: str
    size_bytes: int
    may_download: bool = True
    may_install: bool = True


class DdiClient:
    """A server as one device sees it.

    Args:
        base_url: URL of the server with the tenant, such as https://updates.example.com/DEFAULT.
        device: Name of the device on the server.
        token: The device's target token; None for a server that needs none.

    Raises:
        InputError: The URL is invalid or would send the token unencrypted over a network, or the name is
            invalid.
    """

    def __init__(self, base_url: str, device: str, token: str | None = None) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"{base_url!r} is not a server's URL; expected one such as https://updates.example.com/DEFAULT"
            )
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise InputError(f"{base_url}: expected https; http is only allowed for this machine")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", device):
            raise InputError(
                f"the device's name is {device!r}; expected at most 64 letters, digits, or . _ - in it, "
                "the first a letter or digit"
            )
        self._origin = parts.scheme, parts.netloc
        self._device_url = f"{base_url.rstrip('/')}/controller/v1/{device}"
        self._token = token

    def poll(self) -> PollResult:
        """Ask the server what there is to do.

        Raises:
            ServerError: The server cannot be reached, or its answer is invalid.
        """
        with _translate_parse_errors(self._device_url):
            answer = self._request_json(self._device_url)
            links = {name: _parse_text(link["href"]) for name, link in answer.get("_links", {}).items()}
            hours, minutes, seconds = map(int, answer["config"]["polling"]["sleep"].split(":"))
        sleep_s = min(max(hours * 3600 + minutes * 60 + seconds, 1), MAX_SLEEP_S)
        return PollResult(
            sleep_s, links.get("configData"), links.get("deploymentBase"), links.get("cancelAction")
        )

    def read_deployment(self, url: str) -> Deployment:
        """Read the deployment behind a link.

        Raises:
            ServerError: The server cannot be reached, its answer is invalid, or it offers no bundle.
        """
        with _translate_parse_errors(url):
            answer = self._request_json(url)
            action_id = _parse_action_id(answer["id"])
            document = answer["deployment"]
            may_download = document.get("download", ALLOWED_NOW[0]) in ALLOWED_NOW
            may_install = document.get("update", ALLOWED_NOW[0]) in ALLOWED_NOW
            may_install = may_install and document.get("maintenanceWindow", "available") == "available"
            for chunk in document["chunks"]:
                for artifact in chunk["artifacts"]:
                    links = artifact.get("links") or artifact["_links"]
                    link = links.get("download") or links["download-http"]
                    name, size = _parse_text(artifact["filename"]), _parse_size(artifact["size"])
                    if name.endswith(".swu"):
                        return Deployment(
                            action_id,
                            _feedback_url(url),
                            name,
                            _parse_text(link["href"]),
                            size,
                            may_download,
                            may_install,
                        )
        raise ServerError(f"{url} offers no .swu file")

    def send_feedback(
        self, url: str, action_id: str, execution: str, finished: FinishedState, details: Sequence[str]
    ) -> None:
        """Report the state of a deployment.

        Args:
            url: The deployment's `feedback_url`.
            action_id: The deployment's id.
            execution: "proceeding", "downloaded", or "closed".
            finished: "success" or "failure" with "closed", else "none".
            details: Messages for the user of the server.

        Raises:
            ServerError: The server did not accept it.
        """
        status = {"execution": execution, "result": {"finished": finished}, "details": list(details)}
        self._request_json(url, "POST", {"id": action_id, "status": status})

    def confirm_cancel(self, url: str) -> None:
        """Confirm that a cancelled deployment is not installed; between two polls none is under way."""
        with _translate_parse_errors(url):
            action_id = _parse_action_id(self._request_json(url)["id"])
        self.send_feedback(_feedback_url(url), action_id, "closed", "success", ["cancelled"])

    def send_attributes(self, url: str, attributes: dict[str, str]) -> None:
        """Send the attributes of the device."""
        self._request_json(url, "PUT", {"mode": "merge", "data": attributes})

    def download(self, deployment: Deployment, path: Path) -> None:
        """Download the bundle of a deployment, after the part that the file has already.

        Raises:
            ServerError: The download broke off; the part that arrived is kept for the next attempt.
            InputError: The file cannot be written.
        """
        if not 0 < deployment.size_bytes <= MAX_BUNDLE_BYTES:
            raise ServerError(
                f"{deployment.name} has {deployment.size_bytes} bytes; expected 1 to {MAX_BUNDLE_BYTES}"
            )
        size = path.stat().st_size if path.exists() else 0
        if size > deployment.size_bytes:  # it is another file: start from the beginning
            size = 0
        if size == deployment.size_bytes:
            return
        headers = {"Range": f"bytes={size}-"} if size else {}
        with self._open(deployment.url, "GET", None, headers) as response:
            is_resumed = size > 0 and response.status == http.client.PARTIAL_CONTENT
            with translate_write_errors(path), path.open("ab" if is_resumed else "wb") as file:
                bytes_left = deployment.size_bytes - (size if is_resumed else 0)
                while bytes_left > 0 and (block := _read(response, min(BLOCK_BYTES, bytes_left))):
                    file.write(block)
                    bytes_left -= len(block)
        if bytes_left:
            raise ServerError(
                f"the download of {deployment.name} broke off {bytes_left} bytes before the end"
            )

    def _request_json(
        self, url: str, method: str = "GET", body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        with self._open(url, method, body, {}) as response:
            data = _read(response, MAX_ANSWER_BYTES)
        try:
            document = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ServerError(f"{url} answered something that is not a JSON object")
        return document

    @contextmanager
    def _open(
        self, url: str, method: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise ServerError(f"{url} is not a link ({error})") from None
        if parts.scheme not in ("https", self._origin[0]):
            raise ServerError(
                f"{url} is not requested: expected a link with {self._origin[0]}, like the server's"
            )
        headers = {"Accept": "application/json", **headers}
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        # Links may point to other hosts, such as a CDN: the token is sent to the update server only.
        if self._token and (parts.scheme, parts.netloc) == self._origin:
            request.add_unredirected_header("Authorization", f"TargetToken {self._token}")
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: invalid host name
            reason: object = error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            elif isinstance(error, urllib.error.URLError):
                reason = error.reason
            raise ServerError(
                f"{url} cannot be requested ({reason}): check --server, --id and --token-file, and that the "
                "server runs"
            ) from None
        with response:
            yield response


def _feedback_url(url: str) -> str:
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query="")) + "/feedback"


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    """Read at most `limit` bytes; a broken connection is like the end of the data, which callers check."""
    try:
        return response.read(limit)
    except (OSError, http.client.HTTPException):
        return b""


@contextmanager
def _translate_parse_errors(url: str) -> Iterator[None]:
    try:
        yield
    # OverflowError: a number such as 1e999 is infinite as a float.
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ServerError(f"{url} answered something that is not DDI ({error!r:.200})") from None


def _parse_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise ValueError(f"expected a text of at most {MAX_TEXT_CHARS} characters, got {value!r:.60}")
    return value


def _parse_action_id(value: object) -> str:
    """Return the id of an action, which the API sends as text, and some servers as a number."""
    text = str(value) if type(value) is int else _parse_text(value)
    if not re.fullmatch(r"[\w-]{1,40}", text):  # it becomes a file name on the board
        raise ValueError(f"expected the id of an action, got {text!r:.60}")
    return text


def _parse_size(value: object) -> int:
    """Return a size in bytes, as a number or as text; one that no bundle has is left to `download`."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) >= 1 << 63:
        raise ValueError(f"expected a size in bytes, got {value!r:.60}")
    return value
