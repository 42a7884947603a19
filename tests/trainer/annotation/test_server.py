"""The server of the annotation page: who may read and write, and what it refuses."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from tests.support.waiting import aerogaze_threads
from trainer.annotation.clip import create_clip
from trainer.annotation.server import AnnotationServer

SOURCE = "synthetic:7:128x72:9"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnnotationServer]:
    clip = create_clip(tmp_path / "clip", SOURCE, open_source(SOURCE), 7, lambda: None)
    with closing(AnnotationServer(clip, 4)) as opened:
        yield opened
    assert not aerogaze_threads()


def _ask(
    server: AnnotationServer, method: str, path: str, body: bytes | None = None, token: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    token = server.access.token if token is None else token
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def _change(server: AnnotationServer, document: object) -> tuple[int, Any]:
    status, _, body = _ask(server, "POST", "/change", json.dumps(document).encode())
    return status, json.loads(body)


def test_page_frames_and_state_are_served(server: AnnotationServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/?token={server.access.token}"
    status, headers, body = _ask(server, "GET", "/")
    assert status == 200
    assert b"<title>Aerogaze, annotate</title>" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, body = _ask(server, "GET", "/frames/3.jpg")
    assert (status, headers["Content-Type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    state = json.loads(_ask(server, "GET", "/state.json")[2])
    assert (state["stops"], state["frames"], state["boxes"]) == ([0, 4, 6], 7, [None] * 7)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/state.json"), ("GET", "/frames/0.jpg"), ("POST", "/change")]
)
def test_nothing_is_served_or_written_without_the_token(
    server: AnnotationServer, method: str, path: str
) -> None:
    for token in ("", "wrong", "\xe4"):
        body = b'{"frame": 0, "box": [1, 1, 9, 9]}' if method == "POST" else None
        assert _ask(server, method, path, body, token)[0] == 401
    assert server.clip.annotated == {}


def test_change_is_written_and_answered_with_the_new_state(server: AnnotationServer) -> None:
    assert _change(server, {"frame": 0, "box": [1, 2, 10, 10]})[0] == 200
    status, state = _change(server, {"frame": 4, "box": [5, 2, 10, 10]})
    assert status == 200
    assert [box and box[0] for box in state["boxes"]] == [1, 2, 3, 4, 5, None, None]
    assert server.clip.boxes_path.read_text().startswith("1.00,2.00,10.00,10.00\n2.00,")
    assert _change(server, {"frame": 4, "box": None})[1]["annotated"]["4"] is None
    assert _change(server, {"frame": 4, "remove": True})[1]["annotated"] == {"0": [1, 2, 10, 10]}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"frame": 0},
        {"frame": "0", "box": None},
        {"frame": True, "box": None},
        {"frame": 7, "box": None},
        {"frame": -1, "remove": True},
        {"frame": 0, "remove": False},
        {"frame": 0, "box": [1, 2, 3]},
        {"frame": 0, "box": [1, 2, 3, "4"]},
        {"frame": 0, "box": [1, 2, 3, float("inf")]},
        {"frame": 0, "box": [500, 2, 3, 4]},
    ],
)
def test_invalid_change_is_refused_with_its_reason(server: AnnotationServer, document: object) -> None:
    status, answer = _change(server, document)
    assert status == 400
    assert answer["error"]
    assert server.clip.annotated == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/change", b"{", 400),
        ("POST", "/change", b"[" * 4000, 400),
        ("POST", "/change", b" " * 5000, 413),
        ("POST", "/", b"{}", 404),
        ("GET", "/frames/7.jpg", None, 404),
        ("GET", "/frames/../annotation.json", None, 404),
        ("GET", "/frames/-1.jpg", None, 404),
        ("GET", "/boxes.txt", None, 404),
        ("PUT", "/change", b"{}", 501),
    ],
)
def test_other_requests_are_refused(
    server: AnnotationServer, method: str, path: str, body: bytes | None, status: int
) -> None:
    assert _ask(server, method, path, body)[0] == status


def test_port_in_use_is_an_error(server: AnnotationServer) -> None:
    with pytest.raises(InputError, match="choose another --port"):
        AnnotationServer(server.clip, 5, server.port)
