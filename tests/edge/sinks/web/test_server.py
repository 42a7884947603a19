"""Server of the live page on loopback: responses, access, and clients that misbehave."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result, identity
from edge.sinks.web import client_roster, server
from edge.sinks.web.handlers import IDLE_TIMEOUT_S, RequestHandler
from edge.sinks.web.live_view import LiveView
from edge.sinks.web.sink import HttpSink
from tests.conftest import Outcome
from tests.support.clocks import ManualClock
from tests.support.waiting import aerogaze_threads, wait_until

PATIENCE_S = 60.0
"""Waits for something that must come end when it comes, at the latest after this time."""
REGION = Region(0.75, 0.5, 0.7, 0.4, 0.8, 0.6, 0.31, 4, 1.5)


def result(index: int, image: np.ndarray, *regions: Region) -> Result:
    return Result(Frame(index, index / 30, image), np.ones((8, 8), np.float32), 2.0, regions)


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "int8", "none", "<b>camera</b>"), recovery_s=0)


@pytest.fixture
def page(status: Status) -> Iterator[HttpSink]:
    sink = HttpSink(":0", None, status, camera=CameraGeometry(90))
    yield sink
    sink.discard()
    assert not aerogaze_threads()


def port(sink: HttpSink) -> int:
    return sink._server.port


def get(sink: HttpSink, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port(sink), timeout=PATIENCE_S)) as connection:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def open_stream(sink: HttpSink) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port(sink)), timeout=PATIENCE_S)
    client.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return client


def test_status_json_holds_the_whole_status(page: HttpSink, status: Status, flight: np.ndarray) -> None:
    status.set_state("running")
    for index in range(100):
        status.count_result(float(index + 1))
    status.count_dropped(3)
    status.report_fault("source", "unplugged")
    page.write(result(7, flight[0], REGION))
    code, headers, body = get(page, "/status.json")
    document = json.loads(body)
    assert (code, headers["Content-Type"]) == (200, "application/json")
    assert (document["state"], document["frames"], document["dropped"], document["frame"]) == (
        "running",
        100,
        3,
        7,
    )
    assert document["latency_ms"] == {"p50": 50.5, "p90": 90.1, "p99": 99.01}
    assert document["latencies_ms"] == [float(index + 1) for index in range(100)]
    assert (document["faults"], document["open_faults"]) == ({"source": 1}, {"source": "unplugged"})
    (region,) = document["regions"]
    assert (region["id"], region["x"], region["left"], region["bottom"]) == (4, 240, 224, 108)
    assert region["bearing_deg"] == pytest.approx(26.57, abs=0.01)  # arctan(0.5 tan 45 degrees)
    assert document["about"]["source"] == "<b>camera</b>"


def test_history_has_one_point_per_second(flight: np.ndarray) -> None:
    clock = ManualClock()
    status = Status(RunInfo("", "", "", ""), clock)
    view = LiveView(status, identity, None, clock)
    for _ in range(400):
        for _ in range(30):
            status.count_result(1.0)
        status.count_dropped(2)
        clock.advance(1)
        view.sample_history()
        view.sample_history()  # a second call within the same second
    history = view.status_document()["history"]
    assert isinstance(history, list)
    assert len(history) == 300
    assert history[0] == history[-1] == {"fps": 30.0, "dropped": 2.0}


@pytest.mark.parametrize(
    ("state", "code"), [("starting", 503), ("running", 200), ("stalled", 503), ("stopped", 503)]
)
def test_health_check_succeeds_only_while_running(
    page: HttpSink, status: Status, state: str, code: int
) -> None:
    status.set_state(state)  # type: ignore[arg-type]
    assert get(page, "/healthz")[::2] == (code, f"{state}\n".encode())


def test_metrics_are_valid_prometheus_text(page: HttpSink, status: Status) -> None:
    parser = pytest.importorskip(
        "prometheus_client.parser",
        reason="prometheus_client is not installed: pip install 'aerogaze[metrics]'",
    )
    for latency in (1.0, 2.0, 3.0):
        status.count_result(latency)
    status.set_state("stalled")
    status.count_dropped(5)
    status.count_held()
    status.count_held()
    status.report_fault("source", 'un"plug\\ged\n')
    status.report_fault("sink:http", "gone")
    status.report_recovery("sink:http")
    code, headers, body = get(page, "/metrics")
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["aerogaze_frames_total",] == 3
    assert samples["aerogaze_dropped_frames_total",] == 5
    assert samples["aerogaze_held_maps_total",] == 2
    assert samples["aerogaze_state", "stalled"] == 1
    assert samples["aerogaze_state", "running"] == 0
    assert samples["aerogaze_latency_seconds", "0.5"] == pytest.approx(0.002)
    assert samples["aerogaze_faults_total", "source"] == 1
    assert (samples["aerogaze_fault_open", "source"], samples["aerogaze_fault_open", "sink:http"]) == (1, 0)


def test_pictures_are_served_singly_and_as_a_stream(page: HttpSink, flight: np.ndarray) -> None:
    assert get(page, "/frame.jpg")[0] == 503
    page.write(result(0, flight[0], REGION))
    code, headers, body = get(page, "/frame.jpg")
    assert (code, headers["Content-Type"]) == (200, "image/jpeg")
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (180, 320, 3)
    with open_stream(page) as client, client.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b"multipart/x-mixed-replace; boundary=aerogaze-picture" in head
        for index in range(1, 4):
            assert stream.readline() == b"--aerogaze-picture\r\n"
            size = int(re.findall(rb"Content-Length: (\d+)", b"".join(iter(stream.readline, b"\r\n")))[0])
            shown = cv2.imdecode(np.frombuffer(stream.read(size), np.uint8), cv2.IMREAD_COLOR)
            assert shown is not None
            assert stream.readline() == b"\r\n"
            page.write(result(index, flight[index]))


def test_picture_is_encoded_once_and_only_with_viewers(
    page: HttpSink, flight: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], cv2.imencode

    def counting_encode(*arguments: object) -> object:
        encoded.append(1)
        return encode(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "imencode", counting_encode)
    for index in range(50):
        page.write(result(index, flight[0]))
    assert encoded == []
    clients = [open_stream(page) for _ in range(4)]
    for client in clients:
        read_pictures(client, 1)
    assert len(encoded) == 1
    page.write(result(51, flight[1]))
    for client in clients:
        read_pictures(client, 1)
        client.close()
    assert len(encoded) == 2


def read_pictures(client: socket.socket, count: int) -> None:
    data = b""
    while data.count(b"\xff\xd9\r\n") < count:
        received = client.recv(1 << 16)
        assert received
        data += received


def test_results_are_transformed_only_while_there_are_viewers(status: Status, flight: np.ndarray) -> None:
    clock, transformed = ManualClock(), []

    def transform(result: Result) -> Result:
        transformed.append(result.frame.index)
        return result

    view = LiveView(status, transform, None, clock)
    view.update(result(0, flight[0]))
    assert transformed == []
    view.status_document()
    view.update(result(1, flight[0]))
    assert transformed == [1]
    clock.advance(60)
    view.update(result(2, flight[0]))
    assert transformed == [1]


def test_clients_that_do_not_read_block_nobody(page: HttpSink, flight: np.ndarray) -> None:
    """Two viewers never read, one client sends no request; the run is not blocked and others are served."""
    large_image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)  # large as a JPEG
    silent = [open_stream(page), open_stream(page), socket.create_connection(("127.0.0.1", port(page)))]
    with open_stream(page) as viewer:
        slowest_s, answers = 0.0, 0
        reader = threading.Thread(target=read_pictures, args=(viewer, 8))
        reader.start()
        for index in range(60):
            started_s = time.perf_counter()
            page.write(result(index, large_image))
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
            time.sleep(0.03)
            answers += get(page, "/status.json")[0] == 200 if index % 20 == 0 else 0
        reader.join(20)
        assert not reader.is_alive()
    assert slowest_s < IDLE_TIMEOUT_S  # a silent client may take this long, but the run does not wait for it
    assert answers == 3
    started_s = time.perf_counter()
    page.discard()
    assert time.perf_counter() - started_s < IDLE_TIMEOUT_S
    for client in silent:
        client.close()


def test_viewer_that_receives_nothing_is_disconnected(
    page: HttpSink, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestHandler, "timeout", 0.3)
    large_image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    indices = itertools.count()
    with open_stream(page):
        assert wait_until(lambda: len(page._server.clients) == 1)

        def is_disconnected() -> bool:
            page.write(result(next(indices), large_image))
            return not len(page._server.clients)

        assert wait_until(is_disconnected)
    assert status.snapshot().faults == {"http": 1}


def test_slow_clients_keep_nobody_out(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((client_roster, "HEAD_TIMEOUT_S"), (RequestHandler, "timeout")):
        monkeypatch.setattr(owner, name, 600.0)  # however long the machine takes to connect all clients
    sink = HttpSink("0.0.0.0:0", "a-token-of-mine", status)
    status.set_state("running")
    clients = sink._server.clients
    try:
        slow = [
            socket.create_connection(("127.0.0.1", port(sink)), timeout=PATIENCE_S)
            for _ in range(client_roster.MAX_WAITING)
        ]
        assert wait_until(lambda: len(clients) == client_roster.MAX_WAITING)
        slow[-1].sendall(b"GET")  # an incomplete request does not extend the time limit
        for path, headers, code in (
            ("/healthz", {}, 200),
            ("/status.json", {"Authorization": "Bearer a-token-of-mine"}, 200),
            ("/status.json", {}, 401),
        ):
            assert get(sink, path, **headers)[0] == code
            # The next client would take another slow one's place if this one had not left yet.
            assert wait_until(lambda: len(clients) == client_roster.MAX_WAITING - 1)
        assert b"429" in slow[0].recv(100)  # the oldest one, whose place was needed
        monkeypatch.setattr(client_roster, "HEAD_TIMEOUT_S", 0.1)
        for client in slow:
            while client.recv(100):
                pass
            client.close()
        assert wait_until(lambda: not len(clients))
        assert status.snapshot().faults["http"] > 0
    finally:
        sink.discard()


def test_clients_beyond_the_served_ones_are_told_to_come_back(
    page: HttpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_roster, "MAX_SERVED", 1)
    with open_stream(page) as viewer:
        assert b"200" in viewer.recv(100)
        code, _, body = get(page, "/status.json")
        assert (code, body) == (429, b"too many clients; the run is not affected: try again later\n")
        assert get(page, "/healthz")[0] == 503  # it starts: the state, whatever the number of clients


def test_stream_beyond_the_limit_gets_503(page: HttpSink) -> None:
    clients = [open_stream(page) for _ in range(server.MAX_STREAMS)]
    for client in clients:
        assert b"200" in client.recv(100)
    assert get(page, "/stream.mjpg")[0] == 429
    assert get(page, "/status.json")[0] == 200
    for client in clients:
        client.close()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_printed_url_can_be_opened(status: Status, address: str) -> None:
    sink = HttpSink(address, None, status)
    try:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(sink.url, timeout=PATIENCE_S) as page:
            assert b"<html" in page.read()
    finally:
        sink.discard()


def test_token_is_required_and_kept_as_a_cookie(status: Status) -> None:
    sink = HttpSink("0.0.0.0:0", None, status)
    try:
        token = re.findall(r"token=([\w-]+)", sink.url)[0]
        for path in ("/status.json", "/stream.mjpg", "/frame.jpg", "/metrics", "/nothing"):
            assert get(sink, path)[0] == 401
            assert get(sink, f"{path}?token=wrong")[0] == 401
        code, _, body = get(sink, "/")
        assert code == 401
        assert b'name="token"' in body
        assert b"This token is not valid" in get(sink, "/?token=wrong")[2]
        assert get(sink, "/healthz")[0] == 503  # open to monitoring tools: it reveals only the state
        assert get(sink, f"/status.json?token={token}")[0] == 200
        assert get(sink, "/status.json", Authorization=f"Bearer {token}")[0] == 200
        code, headers, _ = get(sink, f"/?token={token}")
        assert (code, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        own_cookie = cookie.partition(";")[0]
        code, _, body = get(sink, "/", Cookie=own_cookie)
        assert code == 200
        assert token.encode() not in body
        code, headers, _ = get(sink, "/?token=wrong", Cookie=own_cookie)
        assert (code, headers.get("Set-Cookie")) == (303, None), "the valid cookie is kept"
    finally:
        sink.discard()


def test_page_without_a_token_sets_no_cookie(page: HttpSink) -> None:
    code, headers, _ = get(page, "/?token=x%0d%0aSet-Cookie:%20session=evil")
    assert (code, headers.get("Set-Cookie")) == (200, None)


def test_malformed_requests_are_answered_or_dropped(page: HttpSink) -> None:
    assert get(page, "/", Host="evil.example")[0] == 403
    assert get(page, "/nothing")[0] == 404
    assert get(page, "/", method="POST")[0] == 501
    code, headers, body = get(page, "/", method="HEAD")
    assert (code, body) == (200, b"")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for noise in (b"\x00\xff\r\n\r\n", b"GET //[ HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\n" * 10):
        with socket.create_connection(("127.0.0.1", port(page)), timeout=PATIENCE_S) as client:
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
            client.recv(1000)
    assert get(page, "/status.json")[0] == 200


def test_page_is_served_over_ipv6(status: Status) -> None:
    try:
        sink = HttpSink("[::1]:0", None, status)
    except InputError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with closing(http.client.HTTPConnection("::1", port(sink), timeout=PATIENCE_S)) as connection:
        connection.request("GET", "/status.json")
        assert connection.getresponse().status == 200
    sink.discard()


def test_disconnected_clients_leave_no_open_files(page: HttpSink, flight: np.ndarray) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for index in range(30):
        page.write(result(index, flight[0]))
        assert wait_until(
            lambda: len(page._server.clients) < 4
        )  # a disconnected client is noticed within a second
        with open_stream(page) as client:
            if index % 2:
                read_pictures(client, 1)
        get(page, "/status.json")
    assert wait_until(lambda: not len(page._server.clients), 10)
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before


def test_page_loads_nothing_from_other_hosts(page: HttpSink) -> None:
    _, _, body = get(page, "/")
    links = re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(https?:|//)[^\"')\s]*", body.decode())
    assert links == []


def test_address_in_use_is_one_clear_line(page: HttpSink, status: Status) -> None:
    with pytest.raises(InputError, match=rf"cannot serve at 127\.0\.0\.1:{port(page)} .*in use"):
        HttpSink(f":{port(page)}", None, status)
    with pytest.raises(InputError, match=r"cannot serve at 203\.0\.113\.9:1"):
        HttpSink("203.0.113.9:1", None, status)


def test_command_serves_the_page_and_closes_it(command: Callable[..., Outcome], video: Path) -> None:
    outcome = command("run", video, "--http", ":0")
    assert outcome.code == 0, outcome.err
    assert re.search(r"live page: http://127\.0\.0\.1:\d+/\n", outcome.err)
    outcome = command("run", video, "--http", "0.0.0.0:0")
    assert re.search(r"live page: http://\S+:\d+/\?token=[\w-]{22}\n", outcome.err)
    outcome = command("run", video, "--http", "nowhere")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_run_imports_the_server_only_on_demand() -> None:
    code = (
        "import sys, edge.cli.run.command; "
        "late = {'http.server', 'prometheus_client', 'pymavlink', 'edge.sinks.web'} & set(sys.modules); "
        "sys.exit(str(late) if late else 0)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_one_page_serves_two_cameras_until_both_have_ended(flight: np.ndarray) -> None:
    pytest.importorskip(
        "prometheus_client", reason="prometheus_client is not installed: pip install 'aerogaze[metrics]'"
    )
    statuses = [Status(RunInfo("skd-64", "int8", "none", name), camera=name) for name in ("day", "thermal")]
    first = HttpSink(":0", None, statuses[0])
    assert list(json.loads(get(first, "/status.json")[2])["cameras"]) == ["day"], "the second one follows"
    second = first.add_camera(statuses[1], identity, CameraGeometry(90))
    first.write(result(3, flight[0]))
    second.write(result(5, flight[1], REGION))
    statuses[1].set_state("running")
    document = json.loads(get(first, "/status.json")[2])
    assert document["state"] == "running"
    assert [(name, each["frame"]) for name, each in document["cameras"].items()] == [
        ("day", 3),
        ("thermal", 5),
    ]
    assert "bearing_deg" in document["cameras"]["thermal"]["regions"][0]
    assert json.loads(get(first, "/status.json?camera=thermal")[2])["frame"] == 5
    pictures = [get(first, f"/frame.jpg?camera={name}")[2] for name in ("day", "thermal")]
    assert pictures[0] == get(first, "/frame.jpg")[2] != pictures[1]
    assert get(first, "/frame.jpg?camera=night")[0] == 404
    assert get(first, "/healthz")[2] == b"day: starting, thermal: running\n"
    statuses[1].set_state("stalled")
    assert json.loads(get(first, "/status.json")[2])["state"] == "stalled", "the run has not ended"
    statuses[1].set_state("running")
    metrics = get(first, "/metrics")[2].decode()
    assert 'aerogaze_frames_total{camera="thermal"}' in metrics
    assert 'aerogaze_state{camera="day",state="starting"} 1.0' in metrics
    first.commit()
    assert get(second, "/frame.jpg?camera=day")[2] == pictures[0]  # the last one stays
    second.commit()
    assert not aerogaze_threads()
