"""Live page in a real browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import cv2
import numpy as np
import pytest

from edge.core.frames import Frame
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.result import Result
from edge.sinks.web.sink import HttpSink
from tests.support.chromium import CHROMIUM, Chromium
from tests.support.maps import blob
from tests.support.ports import free_tcp_port

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")


class Flight:
    """Page that gets twenty results per second while `running` is set; `beside` shares its page."""

    def __init__(
        self, images: np.ndarray, address: str = ":0", camera: str = "", beside: Flight | None = None
    ) -> None:
        source = "a/very/long/name/of-a-source-that-would-not-fit-on-any-phone-in-any-orientation.mp4"
        self.status = Status(RunInfo("skd-64", "int8", "onnxruntime", source), recovery_s=0, camera=camera)
        settings = self.status, MapAnalyzer(), CameraGeometry(70)
        self.sink: HttpSink = (
            beside.sink.add_camera(*settings) if beside else HttpSink(address, None, *settings)
        )
        self._images, self._end, self.running = images, threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self.running.set()
        self._thread = threading.Thread(target=self._fly)
        self._thread.start()

    def _fly(self) -> None:
        index = 0
        while not self._end.wait(0.05):
            with self._turn:
                if self.running.is_set():
                    self._give(index)
                    index += 1

    def _give(self, index: int) -> None:
        self.status.set_state("running")
        self.status.count_result(2.0 + index % 7)
        self.status.count_dropped(index % 10 == 0)
        saliency = blob(0.3 + 0.001 * index, 0.5) + blob(0.8, 0.3, 0.6)
        frame = Frame(index, time.monotonic(), self._images[index % len(self._images)])
        self.sink.write(Result(frame, saliency, 2.0))

    def stall(self) -> None:
        """Give no more results, until `running` is set."""
        with self._turn:
            self.running.clear()
            self.status.set_state("stalled")

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self.sink.discard()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    opened = Chromium(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def flying(flight: np.ndarray) -> Iterator[Flight]:
    opened = Flight(flight)
    yield opened
    opened.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "phone"), [(1280, 900, False), (390, 844, True), (320, 568, True)]
)
def test_page_shows_the_stream_and_draws_the_plots(
    browser: Chromium, flying: Flight, width: int, height: int, phone: bool, dark: bool
) -> None:
    browser.screen(width, height, dark, phone)
    browser.open(flying.sink.url)
    browser.wait("document.getElementById('stream')?.naturalWidth === 320")
    browser.wait("document.querySelectorAll('#latency .trace, #rate .run, #rate .lost').length === 3")
    browser.wait("document.querySelectorAll('#regions li').length === 2")
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.value("document.getElementById('state').textContent") == "running"
    assert "° right" in browser.value("document.getElementById('regions').textContent")
    for plot in ("latency", "rate"):
        points = browser.value(f"document.querySelector('#{plot} path').getAttribute('d')")
        assert "NaN" not in points
        path_width, path_height = browser.value(
            f"(box => [box.width, box.height])(document.querySelector('#{plot} path').getBBox())"
        )
        assert path_width > (width / 4 if plot == "latency" else 0)
        assert path_height > 5
    assert browser.errors == []
    picture = cv2.imdecode(np.frombuffer(browser.picture(), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert (picture[-60:, :8].mean() < 60) == dark


def test_pictures_move_and_a_stall_is_shown(browser: Chromium, flying: Flight) -> None:
    browser.screen(800, 600)
    browser.open(flying.sink.url)
    browser.wait("document.getElementById('stream')?.naturalWidth === 320")
    shown = "(() => { const c = document.createElement('canvas'), i = document.getElementById('stream');"
    shown += (
        "c.width = 320; c.height = 180; c.getContext('2d').drawImage(i, 0, 0); return c.toDataURL(); })()"
    )
    first = browser.value(shown)
    browser.wait(f"{shown} !== {first!r}")
    flying.stall()
    flying.status.report_fault("source", "<i>no frame</i> for 2.1 s")
    browser.wait("document.getElementById('view').classList.contains('still')")
    reason = browser.value("document.getElementById('why').textContent")
    assert reason == "stalled: <i>no frame</i> for 2.1 s"  # as text, not as HTML
    flying.status.report_recovery("source")
    flying.running.set()
    browser.wait("!document.getElementById('view').classList.contains('still')")
    assert "1 time, over now" in browser.value("document.getElementById('faults').textContent")
    assert browser.errors == []


def test_page_asks_for_its_token_and_shows_a_lost_connection(browser: Chromium, flight: np.ndarray) -> None:
    remote = Flight(flight, "0.0.0.0:0")
    try:
        url, _, token = remote.sink.url.partition("?token=")
        local_url = f"http://127.0.0.1:{remote.sink._server.port}/"
        assert url.endswith(local_url.rpartition(":")[2])
        browser.open(local_url)
        browser.wait("document.querySelector('input[name=token]') !== null")
        browser.value(f"document.querySelector('input').value = {token!r}; document.forms[0].submit()")
        browser.wait("document.getElementById('stream')?.naturalWidth === 320")
        assert browser.value("location.href") == local_url  # without the token
    finally:
        remote.close()
    browser.wait("document.getElementById('state').textContent === 'no connection'")


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 900, False), (390, 844, True)])
def test_page_shows_two_cameras_and_the_numbers_of_the_chosen_one(
    browser: Chromium, flight: np.ndarray, width: int, height: int, phone: bool
) -> None:
    with (
        closing(Flight(flight, camera="day")) as day,
        closing(Flight(flight, camera="thermal", beside=day)) as thermal,
    ):
        browser.screen(width, height, phone=phone)
        browser.open(day.sink.url)
        images = "[...document.querySelectorAll('.view img')]"
        browser.wait(f"{images}.length === 2 && {images}.every(image => image.naturalWidth === 320)")
        thermal.stall()
        is_still = "[...document.querySelectorAll('.view')].map(view => view.classList.contains('still'))"
        browser.wait(f"{is_still}.join() === 'false,true'")
        corners = "(view => [view.getBoundingClientRect().x, view.getBoundingClientRect().y])"
        first, second = browser.value(f"[...document.querySelectorAll('.view')].map{corners}")
        assert (first[1] == second[1]) is not phone  # side by side, or under each other
        assert (first[0] == second[0]) is phone
        assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert browser.value("document.getElementById('state').textContent") == "running"
        browser.value("document.querySelectorAll('.view button')[1].click()")
        browser.wait("document.getElementById('state').textContent === 'stalled'")  # polled by the page
        assert browser.value("document.getElementById('source').textContent").startswith("thermal: ")
        assert browser.errors == []


def test_open_page_shows_the_cameras_of_the_next_run(browser: Chromium, flight: np.ndarray) -> None:
    address = f":{free_tcp_port()}"
    with closing(Flight(flight, address)) as alone:
        browser.open(alone.sink.url)
        browser.wait("document.getElementById('state').textContent === 'running'")
    with (
        closing(Flight(flight, address, camera="day")) as day,
        closing(Flight(flight, camera="thermal", beside=day)),
    ):
        labels = "[...document.querySelectorAll('.view span')].map(label => label.textContent.split(',')[0])"
        browser.wait(f"{labels}.join() === 'day,thermal'")
