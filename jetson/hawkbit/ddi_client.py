"""Client of hawkBit's Direct Device Integration (DDI): JSON over HTTPS, polled by the device.

gooseBit implements the same API. Paths and terms are those of the API (eclipse.dev/hawkbit/apis/ddi_api).
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.guarded_files import parse_json
from jetson.bundle.manifest import MAX_TOTAL_BYTES
from jetson.hawkbit.http_requests import (
    ANSWER_TIMEOUT_S,
    Deadline,
    ServerError,
    open_url,
    show_link,
    split_link,
)

MAX_ANSWER_BYTES = 1 << 20
MAX_BUNDLE_BYTES = MAX_TOTAL_BYTES + (1 << 20)
BLOCK_BYTES = 1 << 18
WINDOW_S = 60.0
MIN_WINDOW_BYTES = 60 << 10
"""A download ends if fewer bytes arrive within `WINDOW_S`: slower links need hours for any bundle."""
MAX_SLEEP_S = 86400
MAX_TEXT_CHARS = 4096
"""Longest link or file name that is taken from a server."""
MAX_NAME_CHARS = 200
"""Longest name of a bundle in messages."""
FinishedState = Literal["none", "success", "failure"]
ALLOWED_NOW = ("attempt", "forced")
"""Values of `download` and `update` that allow the step now; "skip" forbids it."""


@dataclass(frozen=True)
class PollResult:
    """Answer to a poll.

    Attributes:
        sleep_s: Seconds until the next poll.
        config_data: Link to send the device's attributes to; None if the server has them.
        deployment: Link to the deployment that is offered; None if there is none.
        cancel: Link to the deployment that was cancelled; None if there is none.
        confirmation: Link to what waits for a confirmation; None if nothing does.
    """

    sleep_s: float
    config_data: str | None
    deployment: str | None
    cancel: str | None
    confirmation: str | None = None


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
        InputError: The URL is invalid, has a password or would send the token unencrypted over a network, or
            the name is invalid.
    """

    def __init__(self, base_url: str, device: str, token: str | None = None) -> None:
        try:
            parts = urllib.parse.urlsplit(base_url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise InputError(
                f"{show_link(base_url)!r} is not a server's URL; expected one such as "
                "https://updates.example.com/DEFAULT"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                f"--server {show_link(base_url)} has a user, a password or a query, which all users of this "
                "machine could read; expected the address alone: put the token in a file for --token-file"
            )
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise InputError(f"{show_link(base_url)}: expected https; http is only allowed for this machine")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", device):
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
        names = ("configData", "deploymentBase", "cancelAction", "confirmationBase")
        return PollResult(sleep_s, *map(links.get, names))

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
                            printable(name, MAX_NAME_CHARS),
                            _parse_text(link["href"]),
                            size,
                            may_download,
                            may_install,
                        )
        raise ServerError(f"{show_link(url)} offers no .swu file")

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

    def confirm(self, url: str) -> str | None:
        """Confirm a deployment that waits for the device's consent.

        The board checks by itself whether a bundle is signed, fits and may be installed now, so it consents
        to each. The server offers the deployment at the next poll.

        Returns:
            Id of the action; None if none waits.

        Raises:
            ServerError: The server cannot be reached, or its answer is invalid.
        """
        with _translate_parse_errors(url):
            answer = self._request_json(url)
            if "confirmation" not in answer:  # a list of links, of which one may lead to the action
                link = answer.get("_links", {}).get("confirmationBase")
                if link is None:
                    return None
                url = _parse_text(link["href"])
                answer = self._request_json(url)
            action_id = _parse_action_id(answer["id"])
        consent = {
            "confirmation": "confirmed",
            "code": 200,
            "details": ["the board checks the bundle itself"],
        }
        self._request_json(_feedback_url(url), "POST", consent)
        return action_id

    def send_attributes(self, url: str, attributes: dict[str, str]) -> None:
        """Send the attributes of the device."""
        self._request_json(url, "PUT", {"mode": "merge", "data": attributes})

    def download(self, deployment: Deployment, path: Path) -> bool:
        """Download the bundle of a deployment, after the part that the file has already.

        Returns:
            Whether a part of an earlier attempt was used: it may have been damaged meanwhile.

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
            return True
        if size:
            try:
                return self._download_from(deployment, path, size)
            except _PartRefusedError:
                pass  # the server has another file by now, or answers with another part
        return self._download_from(deployment, path, 0)

    def _download_from(self, deployment: Deployment, path: Path, start: int) -> bool:
        """Download from an offset; return whether the server answered with the part from there."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        deadline = Deadline(ANSWER_TIMEOUT_S)
        try:
            with self._open(deployment.url, "GET", None, headers, deadline) as response:
                is_resumed = start > 0 and response.status == http.client.PARTIAL_CONTENT
                part = response.headers.get("Content-Range")
                if is_resumed and part and not re.match(rf"bytes\s+{start}-", part):
                    raise _PartRefusedError
                bytes_left = deployment.size_bytes - (start if is_resumed else 0)
                with translate_write_errors(path), path.open("ab" if is_resumed else "wb") as file:
                    for block in _read_blocks(response, bytes_left, deadline):
                        file.write(block)
                        bytes_left -= len(block)
        except ServerError as error:
            if start and error.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _PartRefusedError from None
            raise
        if bytes_left:
            raise ServerError(
                f"the download of {deployment.name} broke off {bytes_left} bytes before the end"
            )
        return is_resumed

    def _request_json(
        self, url: str, method: str = "GET", body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._open(url, method, data, headers, Deadline(ANSWER_TIMEOUT_S)) as response:
                content = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"the answer of {show_link(url)} broke off ({printable(str(error), MAX_NAME_CHARS)})"
            ) from None
        try:
            document = parse_json(content or b"{}")
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ServerError(f"{show_link(url)} answered something that is not a JSON object")
        return document

    def _open(
        self, url: str, method: str, data: bytes | None, headers: Mapping[str, str], deadline: Deadline
    ) -> AbstractContextManager[http.client.HTTPResponse]:
        split_link(url, self._origin[0])

        def make_headers(link: urllib.parse.SplitResult) -> Mapping[str, str]:
            split_link(link.geturl(), self._origin[0])
            # Links may point to other hosts, such as a CDN: the token is sent to the update server only.
            is_own = (link.scheme, link.netloc) == self._origin
            token = {"Authorization": f"TargetToken {self._token}"} if self._token and is_own else {}
            return {"Accept": "application/json", **headers, **token}

        return open_url(url, method, data, make_headers, deadline)


class _PartRefusedError(Exception):
    """The server does not answer with the part of a file that was asked for."""


def _feedback_url(url: str) -> str:
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(url)._replace(query="")) + "/feedback"


def _read_blocks(response: http.client.HTTPResponse, size_bytes: int, deadline: Deadline) -> Iterator[bytes]:
    """Yield at most so many bytes; a broken or too slow connection is like the end of the data."""
    deadline.extend(WINDOW_S)
    window_bytes = 0
    while size_bytes > 0:
        try:
            block = response.read1(min(BLOCK_BYTES, size_bytes))
        except (OSError, http.client.HTTPException):
            return
        if not block:
            return
        yield block
        size_bytes -= len(block)
        window_bytes += len(block)
        if window_bytes >= MIN_WINDOW_BYTES:  # fast enough: a new window starts
            deadline.extend(WINDOW_S)
            window_bytes = 0


@contextmanager
def _translate_parse_errors(url: str) -> Iterator[None]:
    try:
        yield
    # OverflowError: a number such as 1e999 is infinite as a float.
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(repr(error), MAX_NAME_CHARS)
        raise ServerError(f"{show_link(url)} answered something that is not DDI ({reason})") from None


def _parse_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise ValueError(f"expected a text of at most {MAX_TEXT_CHARS} characters, got {value!r:.60}")
    return value


def _parse_action_id(value: object) -> str:
    """Return the id of an action, which the API sends as text, and some servers as a number."""
    text = str(value) if type(value) is int else _parse_text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", text):  # it becomes a file name on the board
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
