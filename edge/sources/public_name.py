"""Names of sources as they are shown: built from the parts that are known to be harmless, never by masking.

A source may hold a password in many places: before an @, in a query, in a property of a pipeline. So a shown
name takes only what is known: the scheme, host, port and plain path of a URL, and the elements of a pipeline
with a few of their properties. Everything else is left out, or `HIDDEN` stands for it.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import quote

from edge.core.errors import InputError
from edge.core.guarded_files import read_bytes

HIDDEN = "***"
CREDENTIALS_VARIABLE = "AEROGAZE_CREDENTIALS"
"""Environment variable with USER:PASSWORD for RTSP cameras whose URL has none."""
CREDENTIALS_FILE_VARIABLE = "AEROGAZE_CREDENTIALS_FILE"
"""Environment variable with the path of a file or pipe that holds USER:PASSWORD, such as LoadCredential= of
systemd."""

_URL = re.compile(r"""\s*["']?([A-Za-z][A-Za-z0-9+.-]*):/*(.*)""", re.DOTALL)
_DEVICE = re.compile(r"(?:/dev/|v4l2:|csi:|ros2:)[\w.:@/-]*$", re.IGNORECASE)
_NETWORK_SCHEME = re.compile(
    r"""\s*["']?(?:rtspst?|rtspu|rtsps|https?|rtmp[a-z]*|srt|rist|udp|tcp|tls|rtp|srtp|mms[a-z]*|s?ftps?|wss?|whep)
    :/""",
    re.IGNORECASE | re.VERBOSE,
)
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::\d{1,5})?")
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]{1,24}")
_KEY_SEGMENT = re.compile(r"(?=.*\d)[A-Za-z0-9]{12,}")
"""Part of a path that looks like an access key, such as those of UniFi cameras."""
_QUERY = re.compile(r"(?:channel|subtype|stream|profile|camera|codec|unicast|proto|resolution|fps)=\w{1,16}")
_TOKEN = re.compile(r"""(?:[^\s"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')+""")
_ELEMENT = re.compile(r"[A-Za-z][\w.-]*|(?=[a-z]+/x-)[a-z]+/[\w.-]+")
_PROPERTIES = {"device", "sensor-id", "pattern", "num-buffers", "is-live", "latency", "port"}
_LOCATIONS = {"location", "uri"}
_VALUE = re.compile(r"[\w./:-]+")


def public_name(name: str) -> str:
    """Return the name of a source without anything that may be secret.

    Args:
        name: Name of a source as the user gave it: a file, camera, URL or pipeline, also mistyped.
    """
    kind, colon, rest = name.strip().partition(":")
    if colon and kind.lower() == "gst":
        return f"gst:{_public_pipeline(rest)}"
    if colon and kind.lower() == "hw":
        return f"hw:{public_name(rest)}"
    if _DEVICE.match(name) or not _may_hold_secret(name):
        return name
    match = _URL.match(name)
    return _public_url(match[1].lower(), match[2]) if match and _has_scheme(name) else HIDDEN


def has_password(name: str) -> bool:
    """Return whether the name of a source seems to hold a password, for a warning."""
    if _DEVICE.match(name):  # the @ of its mode stands before the frame rate
        return False
    rest = name.partition("://")[2] or name
    # Without a scheme, a slash before the @ is one of a path, such as C:/me@host.
    credentials = r":.*@" if "://" in name else r":[^/@]+@"
    words = r"(?i)(?<![a-z])(?:pass|pw|token|secret|auth|cookie|key)|-pw"
    return re.search(words, name) is not None or re.search(credentials, rest) is not None


def read_credentials() -> tuple[str, str] | None:
    """Return user and password from the environment or from the file that it names; None without them.

    Raises:
        InputError: The file cannot be read, or the text is not USER:PASSWORD. The message does not quote it.
    """
    text, place = os.environ.get(CREDENTIALS_VARIABLE), f"${CREDENTIALS_VARIABLE}"
    if not text and (path := os.environ.get(CREDENTIALS_FILE_VARIABLE)):
        place = path
        read = _read_file if os.path.isfile(path) else _read_pipe
        text = read(path).decode(errors="replace")
    if not text:
        return None
    user, colon, password = text.strip("\r\n").partition(":")
    if not user or not colon or "\n" in password:
        raise InputError(f"{place} is not valid; expected USER:PASSWORD in one line")
    return user, password


def _read_file(path: str) -> bytes:
    return read_bytes(Path(path), 4096, "a file with USER:PASSWORD", accepts_pipe=True)


_read_pipe = cache(_read_file)
"""A pipe can be read only once, but a camera is opened again after each fault."""


def with_credentials(url: str) -> str:
    """Return a URL with the credentials of `read_credentials`, unless it has its own."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not separator or "@" in authority or (credentials := read_credentials()) is None:
        return url
    user, password = (quote(part, safe="") for part in credentials)
    return f"{scheme}://{user}:{password}@{rest}"


def _has_scheme(name: str) -> bool:
    return "://" in name or _NETWORK_SCHEME.match(name) is not None


def _may_hold_secret(name: str) -> bool:
    if _has_scheme(name):
        return True
    return re.search(r":[^:]*@|\?.*=", name) is not None and not os.path.exists(name)


def _public_url(scheme: str, rest: str) -> str:
    """Return scheme, host, port and path of a URL; only the scheme where an @ makes the host uncertain."""
    authority, tail = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    host = authority.rpartition("@")[2]
    if "@" in tail or not _HOST.fullmatch(host):
        return f"{scheme}://{HIDDEN}"
    path, query = re.fullmatch(r"([^?#;]*)(.*)", tail, re.DOTALL).groups()  # type: ignore[union-attr]
    segments = [_public_segment(segment) for segment in path.split("/")]
    pairs = [pair if _QUERY.fullmatch(pair) else HIDDEN for pair in query[1:].split("&")]
    shown_query = f"?{'&'.join(dict.fromkeys(pairs))}" if query.startswith("?") else ""
    return f"{scheme}://{host}{'/'.join(segments)}{shown_query}"


def _public_segment(segment: str) -> str:
    is_plain = not segment or (_SEGMENT.fullmatch(segment) and not _KEY_SEGMENT.fullmatch(segment))
    return segment if is_plain else HIDDEN


def _public_pipeline(pipeline: str) -> str:
    """Return the elements of a pipeline, with the properties that tell which camera it reads."""
    if _TOKEN.sub("", pipeline).strip():  # an open quote
        return HIDDEN
    parts: list[list[str]] = [[]]
    for token in _TOKEN.findall(pipeline):
        if token == "!":  # noqa: S105 (no password, but the link between two elements)
            parts.append([])
        else:
            parts[-1].append(token)
    return " ! ".join(_public_part(*part) for part in parts if part) or HIDDEN


def _public_part(element: str, *properties: str) -> str:
    """Return an element and its harmless properties.

    A word that is no NAME=VALUE may be the rest of a password with spaces. Then only the element is shown.
    """
    # Caps, such as video/x-raw,width=640, are shown without their fields.
    match = _ELEMENT.fullmatch(element.split(",")[0].split("(")[0])
    if match is None:
        return HIDDEN
    pairs = [text.partition("=") for text in properties]
    if not all(name and value for name, _, value in pairs):
        return f"{match[0]} {HIDDEN}"
    shown = [_public_property(name, value.strip("\"'")) for name, _, value in pairs]
    return " ".join([match[0], *dict.fromkeys(shown)])


def _public_property(name: str, value: str) -> str:
    if name in _LOCATIONS and "://" in value:
        return f"{name}={public_name(value)}"
    return f"{name}={value}" if name in _PROPERTIES | _LOCATIONS and _VALUE.fullmatch(value) else HIDDEN
