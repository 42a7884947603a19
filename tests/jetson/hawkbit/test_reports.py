"""Tests of what the agent reports to a hawkBit server: once, on change, and whatever the server refuses."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jetson.device.arming_interlock import ArmedError, NoAutopilot, NoHeartbeatError
from jetson.device.board import DeviceBoard
from jetson.device.service import CommandService
from jetson.hawkbit.agent import UpdateAgent
from jetson.hawkbit.ddi_client import DdiClient
from jetson.hawkbit.http_requests import ServerError
from jetson.signing.keys import SigningKey
from jetson.signing.trust import make_trust
from tests.support.boards import flown_counter, make_board

MakeBundle = Callable[..., Path]


class HawkbitServer(http.server.ThreadingHTTPServer):
    """Server that offers one bundle, and records the reports and the requests that it receives.

    Attributes:
        bundle: Content of the bundle.
        refuses: Executions of feedback that are answered with `code`.
        waits_for: "confirmation" until the device confirms, then "deployment".
        log: Executions of the feedback that was accepted, and the offsets of downloads.
    """

    def __init__(self, bundle: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HawkbitHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/D/controller/v1/d"
        self.bundle, self.refuses, self.code = bundle, set[str](), 403
        self.waits_for, self.lists_confirmations = "deployment", False
        self.log: list[str] = []
        self.downloads: list[int] = []


class HawkbitHandler(http.server.BaseHTTPRequestHandler):
    server: HawkbitServer

    def do_GET(self) -> None:
        server, path = self.server, self.path.removeprefix("/D/controller/v1/d")
        action = {"href": f"{server.url}/confirmationBase/15?c=7"}
        chunk = {"artifacts": [{
            "filename": "b.swu", "size": len(server.bundle),
            "_links": {"download": {"href": f"{server.url}/file"}},
        }]}  # fmt: skip
        if path == "/file":
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            server.downloads.append(start)
            self.answer(server.bundle[start:], 206 if start else 200)
        elif path == "/deploymentBase/15":
            self.answer({"id": "15", "deployment": {"chunks": [chunk]}})
        elif path == "/confirmationBase":
            self.answer({"autoConfirm": {"active": False}, "_links": {"confirmationBase": action}})
        elif path.startswith("/confirmationBase/15"):
            self.answer({"id": "15", "confirmation": {"chunks": [chunk]}})
        elif server.waits_for == "deployment":
            self.answer(self.poll("deploymentBase", f"{server.url}/deploymentBase/15"))
        else:
            listed = f"{server.url}/confirmationBase"
            self.answer(
                self.poll("confirmationBase", listed if server.lists_confirmations else action["href"])
            )

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/confirmationBase/15/feedback"):
            assert (document["confirmation"], document["code"]) == ("confirmed", 200)
            self.server.waits_for = "deployment"
            self.server.log.append("confirmed")
            self.answer({})
            return
        status = document["status"]
        assert len(status["details"][0]) <= 512
        is_refused = status["execution"] in self.server.refuses
        if not is_refused:
            finished = {"none": "", "success": " well", "failure": " badly"}[status["result"]["finished"]]
            self.server.log.append(status["execution"] + finished)
        self.answer({}, self.server.code if is_refused else 200)

    def poll(self, name: str, link: str) -> dict[str, Any]:
        return {"config": {"polling": {"sleep": "00:05:00"}}, "_links": {name: {"href": link}}}

    def answer(self, content: bytes | dict[str, Any], code: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hawkbit(make_bundle: MakeBundle) -> Iterator[HawkbitServer]:
    server = HawkbitServer(make_bundle(counter=1).read_bytes())
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def drone(tmp_path: Path, key: SigningKey) -> DeviceBoard:
    board = make_board(tmp_path / "drone")
    board.set_trust(make_trust([key.public_key]), None)
    return board


class FailingAutopilot(NoAutopilot):
    """Autopilot whose checks raise these errors one after the other, and then pass."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def check_disarmed(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def poll(server: HawkbitServer, board: DeviceBoard, autopilot: NoAutopilot | None = None) -> None:
    """Poll with a new agent, as `device agent --once` in a timer does."""
    client = DdiClient(server.url.partition("/controller")[0], "d")
    UpdateAgent(board, client, autopilot or NoAutopilot()).poll_once()


def test_waiting_is_reported_once_and_on_change(hawkbit: HawkbitServer, drone: DeviceBoard) -> None:
    armed, silent = ArmedError("the drone is armed"), NoHeartbeatError("no heartbeat in 3 s")
    for error in (armed, armed, armed, silent, silent, armed):
        poll(hawkbit, drone, FailingAutopilot(error))
    assert hawkbit.log == ["proceeding"] * 3, "armed, no heartbeat, armed"
    poll(hawkbit, drone)
    assert hawkbit.log[3:] == ["proceeding", "proceeding", "closed well"]
    assert flown_counter(drone) == 1


def test_steps_before_the_same_wait_are_not_repeated_at_each_poll(
    hawkbit: HawkbitServer, drone: DeviceBoard
) -> None:
    with drone.lock():
        for _ in range(20):
            poll(hawkbit, drone)
    assert len(hawkbit.log) < 10
    poll(hawkbit, drone)
    assert hawkbit.log[-1] == "closed well"
    assert hawkbit.downloads == [0]


def test_reasons_that_differ_in_numbers_are_the_same(hawkbit: HawkbitServer, drone: DeviceBoard) -> None:
    for free in range(30):
        poll(hawkbit, drone, FailingAutopilot(ArmedError(f"{free} MiB free, {free * 1.5} are needed")))
    assert hawkbit.log == ["proceeding"]


def test_reports_of_a_deployment_are_limited(hawkbit: HawkbitServer, drone: DeviceBoard) -> None:
    for number in range(120):
        name = "".join(chr(97 + int(digit)) for digit in str(number))
        poll(hawkbit, drone, FailingAutopilot(ArmedError(f"reason {name}")))
    assert len(hawkbit.log) == 100
    poll(hawkbit, drone)
    assert hawkbit.log[100:] == ["closed well"]


@pytest.mark.parametrize("code", [403, 429, 500])
def test_refused_reports_stop_nothing(hawkbit: HawkbitServer, drone: DeviceBoard, code: int) -> None:
    hawkbit.refuses, hawkbit.code = {"proceeding", "downloaded"}, code
    poll(hawkbit, drone, FailingAutopilot(ArmedError("the drone is armed")))
    poll(hawkbit, drone)
    assert hawkbit.log == ["closed well"]
    assert flown_counter(drone) == 1


@pytest.mark.parametrize("is_good", [True, False])
def test_verdict_that_is_refused_is_sent_again_and_nothing_is_repeated(
    hawkbit: HawkbitServer, drone: DeviceBoard, is_good: bool
) -> None:
    hawkbit.refuses = {"closed"}
    if not is_good:
        drone.service = CommandService(("false",))
    for _ in range(3):
        with pytest.raises(ServerError, match="HTTP 403"):
            poll(hawkbit, drone)
    assert hawkbit.downloads == [0], "neither downloaded nor tried again"
    events = [row["event"] for row in drone.read_state().history]
    assert events == (["install"] if is_good else ["back"])
    hawkbit.refuses = set()
    poll(hawkbit, drone)
    assert hawkbit.log[-1] == ("closed well" if is_good else "closed badly")


@pytest.mark.parametrize("damage", ["zeros at its end", "whole, but zeros", "of another file"])
def test_damaged_part_of_a_download_is_fetched_again_before_a_verdict(
    hawkbit: HawkbitServer, drone: DeviceBoard, damage: str
) -> None:
    content = hawkbit.bundle
    part = {
        "zeros at its end": content[: len(content) // 2 - 65536] + bytes(65536),
        "whole, but zeros": content[:-65536] + bytes(65536),
        "of another file": bytes(1000),
    }[damage]
    (drone.root / "arrived").mkdir()
    (drone.root / "arrived/15.swu").write_bytes(part)
    poll(hawkbit, drone)
    assert hawkbit.downloads == ([0] if len(part) == len(content) else [len(part), 0])
    assert hawkbit.log[-1] == "closed well"
    assert flown_counter(drone) == 1


def test_bundle_that_is_damaged_at_the_server_is_fetched_only_twice(
    hawkbit: HawkbitServer, drone: DeviceBoard
) -> None:
    hawkbit.bundle = hawkbit.bundle[:-70_000] + bytes(70_000)
    (drone.root / "arrived").mkdir()
    (drone.root / "arrived/15.swu").write_bytes(hawkbit.bundle[:1000])
    poll(hawkbit, drone)
    assert hawkbit.downloads == [1000, 0]
    assert hawkbit.log[-1] == "closed badly"
    assert not list((drone.root / "arrived").iterdir())


@pytest.mark.parametrize("is_listed", [False, True])
def test_deployment_that_waits_for_a_confirmation_is_confirmed_and_installed(
    hawkbit: HawkbitServer, drone: DeviceBoard, is_listed: bool
) -> None:
    hawkbit.waits_for, hawkbit.lists_confirmations = "confirmation", is_listed
    poll(hawkbit, drone)
    assert hawkbit.log == ["confirmed", "proceeding", "proceeding", "closed well"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"id": 15}', b'{"verdict": "x"}', b'{"steps": 7}', b"[" * 9999, b'{"count": "a"}'],
)
def test_damaged_file_of_reports_counts_as_none(
    hawkbit: HawkbitServer, drone: DeviceBoard, content: bytes
) -> None:
    (drone.root / "reports.json").write_bytes(content)
    poll(hawkbit, drone)
    assert hawkbit.log[-1] == "closed well"


def test_no_error_of_a_poll_ends_the_agent(drone: DeviceBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopAgent(BaseException):
        pass

    errors: list[BaseException] = [
        ServerError("gone"), ArmedError("armed"), MemoryError(), OverflowError("1e999"), StopAgent(),
    ]  # fmt: skip

    class FailingClient:
        def poll(self) -> None:
            raise errors.pop(0)

    lines: list[str] = []
    drone.log = lines.append
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(StopAgent):
        UpdateAgent(drone, FailingClient(), NoAutopilot()).run()  # type: ignore[arg-type]
    assert len(lines) == 4
