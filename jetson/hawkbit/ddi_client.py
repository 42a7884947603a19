"""hawkBit's DDI, the device's side: small JSON over HTTPS, asked by the device. gooseBit speaks it, too.

Paths and words are those of the Direct Device Integration API (eclipse.dev/hawkbit/apis/ddi_api).
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
LARGEST_ANSWER = 1 << 20
LARGEST_BUNDLE = MAX_TOTAL_BYTES + (1 << 20)
BLOCK = 1 << 18
Finished = Literal["none", "success", "failure"]
NOW = ("attempt", "forced")
"""How `download` and `update` say that it may be done; "skip": not yet."""


class ServerError(InputError):
    """The server cannot be reached, or says no, or something odd: to be asked again later."""


@dataclass(frozen=True)
class PollResult:
    """What the server answered: when to ask again, and what there is to do, as links."""

    sleep_s: float
    config_data: str | None
    deployment: str | None
    cancel: str | None


@dataclass(frozen=True)
class Deployment:
    """One thing to install: its number there, where to send feedback, and where the bundle is.

    `download`, `install`: whether the server lets that be done now. The maintenance window is for installing.
    """

    id: str
    feedback: str
    name: str
    href: str
    size_bytes: int
    download: bool = True
    install: bool = True


class DdiClient:
    """A server as one device sees it. `base`: with the tenant, as https://updates.example.com/DEFAULT.

    Raises:
        InputError: the address is none, or would send the token unencrypted over a network.
    """

    def __init__(self, base: str, device: str, token: str | None = None) -> None:
        parts = urllib.parse.urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{base!r} is no server; expected one as https://updates.example.com/DEFAULT")
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise InputError(f"{base}: expected https; plain http is for this very machine")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", device):
            raise InputError(f"the device's name {device!r} may have letters, digits, . _ -, and 64 at most")
        self._host = parts.scheme, parts.netloc
        self._home = f"{base.rstrip('/')}/controller/v1/{device}"
        self._token = token

    def poll(self) -> PollResult:
        """Ask what there is to do.

        Raises:
            ServerError: it cannot be reached, or answers something else.
        """
        with _expected(self._home):
            answer = self._json(self._home)
            links = {name: str(link["href"]) for name, link in answer.get("_links", {}).items()}
            hours, minutes, seconds = map(int, answer["config"]["polling"]["sleep"].split(":"))
        deployment = links.get("deploymentBase")
        wait = min(max(hours * 3600 + minutes * 60 + seconds, 1), 86400)
        return PollResult(wait, links.get("configData"), deployment, links.get("cancelAction"))

    def deployment(self, href: str) -> Deployment:
        """Read what to install.

        Raises:
            ServerError: it cannot be reached, or has no bundle there.
        """
        with _expected(href):
            answer = self._json(href)
            number = str(answer["id"])
            wanted = answer["deployment"]
            download = wanted.get("download", NOW[0]) in NOW
            install = wanted.get("update", NOW[0]) in NOW
            install = install and wanted.get("maintenanceWindow", "available") == "available"
            for chunk in wanted["chunks"]:
                for artifact in chunk["artifacts"]:
                    links = artifact.get("links") or artifact["_links"]
                    link = links.get("download") or links["download-http"]
                    name, size = str(artifact["filename"]), int(artifact["size"])
                    if name.endswith(".swu") and re.fullmatch(r"[\w-]{1,40}", number):
                        url = str(link["href"])
                        return Deployment(number, _feedback(href), name, url, size, download, install)
        raise ServerError(f"{href} offers no .swu")

    def send_feedback(
        self, feedback: str, number: str, execution: str, finished: Finished, details: Sequence[str]
    ) -> None:
        """Give feedback: "proceeding", "downloaded", or "closed" with success or failure.

        Raises:
            ServerError: it did not arrive.
        """
        status = {"execution": execution, "result": {"finished": finished}, "details": list(details)}
        self._json(feedback, "POST", {"id": number, "status": status})

    def cancel(self, href: str) -> None:
        """Confirm that what was cancelled will not be done: nothing is under way between two polls."""
        with _expected(href):
            number = str(self._json(href)["id"])
        self.send_feedback(_feedback(href), number, "closed", "success", ["cancelled"])

    def send_attributes(self, href: str, data: dict[str, str]) -> None:
        """Tell what device this is."""
        self._json(href, "PUT", {"mode": "merge", "data": data})

    def download(self, deployment: Deployment, place: Path) -> None:
        """Download the bundle, going on after what is there already.

        Raises:
            ServerError: it broke off; what came is kept, for the next time.
            InputError: it cannot be written.
        """
        if not 0 < deployment.size_bytes <= LARGEST_BUNDLE:
            raise ServerError(f"{deployment.name} has {deployment.size_bytes} bytes: no bundle has")
        there = place.stat().st_size if place.exists() else 0
        if there > deployment.size_bytes:  # of something else: begun anew
            there = 0
        if there == deployment.size_bytes:
            return
        headers = {"Range": f"bytes={there}-"} if there else {}
        with self._opened(deployment.href, "GET", None, headers) as answer:
            goes_on = there > 0 and answer.status == 206
            with translate_write_errors(place), place.open("ab" if goes_on else "wb") as file:
                left = deployment.size_bytes - (there if goes_on else 0)
                while left > 0 and (block := _read(answer, min(BLOCK, left))):
                    file.write(block)
                    left -= len(block)
        if left:
            raise ServerError(f"the download of {deployment.name} broke off with {left} bytes to go")

    def _json(self, url: str, method: str = "GET", body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._opened(url, method, body, {}) as answer:
            data = _read(answer, LARGEST_ANSWER)
        try:
            document = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ServerError(f"{url} answered something that is no JSON object")
        return document

    @contextmanager
    def _opened(
        self, url: str, method: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise ServerError(f"{url} is no link ({error})") from None
        if parts.scheme not in ("https", self._host[0]):
            raise ServerError(f"{url}: expected a link with {self._host[0]}")
        everything = {"Accept": "application/json", **headers}
        request = urllib.request.Request(url, method=method, headers=everything)  # noqa: S310
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token and (parts.scheme, parts.netloc) == self._host:  # nobody else is shown it
            request.add_unredirected_header("Authorization", f"TargetToken {self._token}")
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no host's name
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise ServerError(f"{url} cannot be asked ({error})") from None
        with answer:
            yield answer


def _feedback(href: str) -> str:
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(href)._replace(query="")) + "/feedback"


def _read(answer: http.client.HTTPResponse, most: int) -> bytes:
    try:
        return answer.read(most)
    except (OSError, http.client.HTTPException):
        return b""  # what is missing is seen by who counts


@contextmanager
def _expected(url: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"{url} answered something that is not DDI ({error!r})") from None
