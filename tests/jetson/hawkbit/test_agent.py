"""Tests of the update agent with a real gooseBit on loopback, and with servers that answer badly."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import CheckError, InputError
from jetson.device.arming_interlock import ArmedError, NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.service import CommandService
from jetson.hawkbit.agent import UpdateAgent
from jetson.hawkbit.ddi_client import DdiClient, Deployment
from jetson.hawkbit.http_requests import ServerError
from jetson.signing.keys import SigningKey
from jetson.signing.trust import make_trust
from tests.support.boards import make_board
from tests.support.goosebit import GooseBit, running_goosebit

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="module")
def goosebit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GooseBit]:
    with running_goosebit(tmp_path_factory.mktemp("goosebit")) as server:
        yield server


def make_agent(goosebit: GooseBit, root: Path, key: SigningKey, name: str) -> tuple[UpdateAgent, list[str]]:
    board, lines = make_board(root), list[str]()
    board.log = lines.append
    board.set_trust(make_trust([key.public_key]), None)
    return UpdateAgent(board, DdiClient(f"{goosebit.url}/DEFAULT", name), NoAutopilot()), lines


def current_counter(board: DeviceBoard) -> int | None:
    slot = board.read_state().current_slot
    return slot.counter if slot else None


def test_agent_installs_what_goosebit_rolls_out_and_reports_the_result(
    goosebit: GooseBit, make_bundle: MakeBundle, key: SigningKey, tmp_path: Path
) -> None:
    agent, lines = make_agent(goosebit, tmp_path / "drone", key, "drone-1")
    assert agent.poll_once() == 10, "the board is registered, and polls again soon"
    goosebit.roll_out(make_bundle(counter=1))
    agent.poll_once()
    assert current_counter(agent.board) == 1
    row = goosebit.device("drone-1")
    assert (row["last_state"], row["sw_version"]) == ("Finished", "1.0.0")
    assert not list((agent.board.root / "arrived").iterdir())
    before = agent.board.read_state()
    agent.poll_once()
    assert agent.board.read_state() == before, "nothing more to do"

    goosebit.roll_out(make_bundle(counter=2))
    agent.autopilot = ArmedAutopilot()
    agent.poll_once()
    assert current_counter(agent.board) == 1, "nothing is installed while the drone is armed"
    assert goosebit.device("drone-1")["last_state"] == "Running"
    agent.autopilot = NoAutopilot()
    agent.poll_once()
    assert current_counter(agent.board) == 2

    goosebit.roll_out(make_bundle(counter=3))
    agent.board.service = CommandService(("false",))
    agent.poll_once()
    assert current_counter(agent.board) == 2, "the board went back to the release before"
    assert goosebit.device("drone-1")["last_state"] == "Error"
    assert any("did not stay healthy" in line for line in lines)


class ArmedAutopilot(NoAutopilot):
    def check_disarmed(self) -> None:
        raise CheckError("the drone is armed")


@contextmanager
def run_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FixedAnswerHandler(http.server.BaseHTTPRequestHandler):
    """Answers each GET request with `body`, without a log."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"config": 1}', b'{"config": {"polling": {"sleep": "soon"}}}',
             b'{"_links": {"deploymentBase": 7}, "config": {"polling": {"sleep": "00:01:00"}}}'],
)  # fmt: skip
def test_invalid_answers_are_reported(body: bytes) -> None:
    with (
        run_server(type("InvalidAnswerHandler", (FixedAnswerHandler,), {"body": body})) as base,
        pytest.raises(ServerError, match="answered"),
    ):
        DdiClient(f"{base}/DEFAULT", "d").poll()


@pytest.mark.parametrize(
    "part",
    [
        '"size": 1e999', '"size": -1e999', '"size": NaN', '"size": true', '"size": null', '"size": [6]',
        '"size": 1.5', '"size": "1e9"',
        '"size": "' + "9" * 5000 + '"', '"size": ' + "9" * 5000, '"filename": 7',
        '"filename": ["b.swu"]',
        '"_links": {"download": {"href": 7}}', '"_links": {"download": {"href": {"a": "b"}}}', '"_links": 7',
        '"_links": {"download": {"href": "http://127.0.0.1/' + "x" * 100_000 + '"}}',
    ],
    ids=lambda part: part[:24],
)  # fmt: skip
def test_deployment_with_a_wrong_value_is_reported_and_can_be_asked_for_again(part: str) -> None:
    artifact = (
        '"filename": "b.swu", "size": 6, "_links": {"download": {"href": "http://127.0.0.1/b"}}, ' + part
    )
    body = f'{{"id": "1", "deployment": {{"chunks": [{{"artifacts": [{{{artifact}}}]}}]}}}}'.encode()
    with (
        run_server(type("WrongHandler", (FixedAnswerHandler,), {"body": body})) as base,
        pytest.raises(ServerError, match="answered something that is not") as caught,
    ):
        DdiClient(f"{base}/DEFAULT", "d").read_deployment(f"{base}/deployment")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "action_id", ["1e999", "true", "null", "[1]", '"../../x"', '"' + "1" * 41 + '"', "9" * 60]
)
def test_deployment_with_a_wrong_id_is_reported(action_id: str) -> None:
    body = f'{{"id": {action_id}, "deployment": {{"chunks": []}}}}'.encode()
    with run_server(type("WrongHandler", (FixedAnswerHandler,), {"body": body})) as base:
        for ask in (
            DdiClient(f"{base}/DEFAULT", "d").read_deployment,
            DdiClient(f"{base}/D", "d").confirm_cancel,
        ):
            with pytest.raises(ServerError, match="answered something that is not"):
                ask(f"{base}/deployment")


@pytest.mark.parametrize(
    "sleep", ["1e999", '"1e999:00:00"', '"00:00"', "7", '"' + "9" * 5000 + ':00:00"', "null"]
)
def test_wrong_interval_is_reported(sleep: str) -> None:
    body = f'{{"config": {{"polling": {{"sleep": {sleep}}}}}}}'.encode()
    with (
        run_server(type("WrongHandler", (FixedAnswerHandler,), {"body": body})) as base,
        pytest.raises(ServerError, match="answered something that is not"),
    ):
        DdiClient(f"{base}/DEFAULT", "d").poll()


class CuttingHandler(FixedAnswerHandler):
    """Serves `data` with ranges, and cuts answers without a range after 1 MB."""

    data = os.urandom(3_000_000)
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        byte_range = self.headers["Range"]
        self.ranges.append(byte_range)
        start = int(byte_range.removeprefix("bytes=").rstrip("-")) if byte_range else 0
        self.send_response(206 if byte_range else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : None if byte_range else 1_000_000])


def test_download_resumes_where_it_broke(tmp_path: Path) -> None:
    with run_server(CuttingHandler) as base:
        deployment = Deployment("1", "", "b.swu", f"{base}/b.swu", len(CuttingHandler.data))
        server = DdiClient(f"{base}/DEFAULT", "d")
        with pytest.raises(ServerError, match="broke off 2000000 bytes before the end"):
            server.download(deployment, tmp_path / "b.swu")
        server.download(deployment, tmp_path / "b.swu")
    assert (tmp_path / "b.swu").read_bytes() == CuttingHandler.data
    assert CuttingHandler.ranges == [None, "bytes=1000000-"]


@pytest.mark.parametrize(
    ("base", "device", "message"),
    [
        ("updates", "d", "is not a server's URL"),
        ("file:///etc", "d", "is not a server's URL"),
        ("http://updates.example.com/DEFAULT", "d", "expected https"),
        ("https://updates.example.com/DEFAULT", "a/../b", "the device's name"),
    ],
)
def test_invalid_url_or_device_name_is_reported(base: str, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DdiClient(base, device)


def test_links_to_files_are_refused(tmp_path: Path) -> None:
    server = DdiClient("http://127.0.0.1:1/DEFAULT", "d")
    with pytest.raises(ServerError, match="expected a link with http"):
        server.download(Deployment("1", "", "b.swu", "file:///etc/passwd", 10), tmp_path / "b")


class FakeServer:
    """A server that records feedback; tests add `download`."""

    def __init__(self) -> None:
        self.feedback: list[tuple[str, str, str]] = []

    def send_feedback(
        self, feedback: str, number: str, execution: str, finished: str, details: list[str]
    ) -> None:
        self.feedback.append((execution, finished, details[0]))


@pytest.mark.parametrize("why", ["armed at the switch", "busy", "no room"])
def test_agent_waits_after_errors_that_are_not_the_bundles(
    make_bundle: MakeBundle, key: SigningKey, tmp_path: Path, why: str
) -> None:
    board = make_board(tmp_path / "drone")
    board.set_trust(make_trust([key.public_key]), None)
    server, bundle = FakeServer(), make_bundle()

    class LaterArmedAutopilot(NoAutopilot):
        checks = 0

        def check_disarmed(self) -> None:
            self.checks += 1
            if self.checks > 1:
                raise ArmedError("the drone is armed")

    def download(deployment: Deployment, path: Path) -> None:
        del deployment
        if why == "no room":
            raise InputError("cannot write it: is the disk full?")
        path.write_bytes(bundle.read_bytes())

    server.download = download  # type: ignore[attr-defined]
    agent = UpdateAgent(board, server, LaterArmedAutopilot() if "armed" in why else NoAutopilot())  # type: ignore[arg-type]
    with board.lock() if why == "busy" else nullcontext():
        agent._deploy(Deployment("1", "f", "b.swu", "h", bundle.stat().st_size))
    assert server.feedback[-1][:2] == ("proceeding", "none")
    assert server.feedback[-1][2].startswith("waiting: ")
    assert current_counter(board) is None
    assert (board.root / "arrived" / "1.swu").exists() == (why != "no room"), "the download is kept"


@pytest.mark.parametrize(
    "restriction",
    [{"update": "skip"}, {"update": "forced", "maintenanceWindow": "unavailable"}, {"download": "skip"}],
)
def test_nothing_is_installed_until_the_server_allows_it(
    make_bundle: MakeBundle, key: SigningKey, tmp_path: Path, restriction: dict[str, str]
) -> None:
    bundle = make_bundle()
    offer: dict[str, str] = {"download": "attempt", **restriction}
    executions: list[str] = []

    class HawkbitHandler(FixedAnswerHandler):
        def do_GET(self) -> None:
            server_url = f"http://{self.headers['Host']}"
            artifact = {
                "filename": "b.swu",
                "size": bundle.stat().st_size,
                "_links": {"download": {"href": f"{server_url}/b.swu"}},
            }
            answer = {
                "config": {"polling": {"sleep": "00:00:10"}},
                "_links": {"deploymentBase": {"href": f"{server_url}/deployment"}},
                "id": "7",
                "deployment": {**offer, "chunks": [{"artifacts": [artifact]}]},
            }
            self.body = bundle.read_bytes() if self.path == "/b.swu" else json.dumps(answer).encode()
            super().do_GET()

        def do_POST(self) -> None:
            status = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["status"]
            executions.append(status["execution"])
            self.send_response(200)
            self.end_headers()

    board, lines = make_board(tmp_path / "drone"), list[str]()
    board.log = lines.append
    board.set_trust(make_trust([key.public_key]), None)
    with run_server(HawkbitHandler) as base:
        agent = UpdateAgent(board, DdiClient(f"{base}/DEFAULT", "d"), NoAutopilot())
        for _ in range(3):
            agent.poll_once()
        before = len(lines)
        agent.poll_once(log_idle=True)
        step = "download" if "download" in restriction else "install"
        assert lines[before:] == [f"the server offers b.swu, but does not allow the {step} yet"]
        assert current_counter(board) is None
        downloads = "download" not in restriction
        assert executions == (["proceeding", "downloaded"] if downloads else []), (
            "reported once, not at each poll"
        )
        assert (board.root / "arrived" / "7.swu").exists() == downloads
        offer |= {"download": "attempt", "update": "attempt", "maintenanceWindow": "available"}
        agent.poll_once()
    assert current_counter(board) == 1
    assert executions[-1] == "closed"


@pytest.mark.parametrize(
    ("links", "line"),
    [
        ({}, "the server offers nothing: nothing to do"),
        ({"cancelAction": {"href": "/cancel"}}, "the server has cancelled its offer: nothing to do"),
    ],
)
def test_agent_says_that_there_is_nothing_to_do_only_if_asked(
    tmp_path: Path, links: dict[str, Any], line: str
) -> None:
    class IdleHandler(FixedAnswerHandler):
        def do_GET(self) -> None:
            base = f"http://{self.headers['Host']}"
            offers = {name: {"href": base + link["href"]} for name, link in links.items()}
            answer = {
                "config": {"polling": {"sleep": "00:00:10"}},
                "_links": offers,
                "cancelAction": {"stopId": "7"},
                "id": "7",
            }
            self.body = json.dumps(answer).encode()
            super().do_GET()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

    board, lines = make_board(tmp_path / "drone"), list[str]()
    board.log = lines.append
    with run_server(IdleHandler) as base:
        agent = UpdateAgent(board, DdiClient(f"{base}/DEFAULT", "d"), NoAutopilot())
        agent.poll_once()
        assert lines == []
        agent.poll_once(log_idle=True)
    assert lines == [line]


def test_download_larger_than_offered_starts_from_the_beginning(tmp_path: Path) -> None:
    with run_server(type("BundleHandler", (FixedAnswerHandler,), {"body": b"bundle"})) as base:
        (tmp_path / "b.swu").write_bytes(b"something longer")
        DdiClient(f"{base}/DEFAULT", "d").download(
            Deployment("1", "", "b.swu", f"{base}/b", 6), tmp_path / "b.swu"
        )
    assert (tmp_path / "b.swu").read_bytes() == b"bundle"


@pytest.mark.parametrize("link", ["http://[", "http:///none", "http://a b/", "b.swu", "http://\udcff/"])
def test_invalid_links_are_reported(tmp_path: Path, link: str) -> None:
    with pytest.raises(ServerError) as error:
        DdiClient("http://127.0.0.1:1/DEFAULT", "d").download(
            Deployment("1", "", "b.swu", link, 10), tmp_path / "b"
        )
    assert "\n" not in str(error.value)
