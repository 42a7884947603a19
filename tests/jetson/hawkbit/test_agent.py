"""A board that asks a real gooseBit on loopback, and a server that answers badly."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import CheckError, InputError
from jetson.device.arming_interlock import ArmedError, NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.service import CommandService
from jetson.hawkbit.agent import UpdateAgent
from jetson.hawkbit.ddi_client import DdiClient, Deployment, ServerError
from jetson.signing.keys import SigningKey
from jetson.signing.trust import make_trust
from tests.support.boards import make_board

GOOSEBIT = Path(os.environ.get("GOOSEBIT_PYTHON", "/nonexistent"))
MakeBundle = Callable[..., Path]

SERVE = """
import asyncio, sys, uvicorn
from tortoise import Tortoise
from goosebit import app, db
from goosebit.settings import PWD_CXT
from goosebit.users import create_initial_user
async def prepare():
    await db.init()
    await Tortoise.generate_schemas()
    await create_initial_user("us", PWD_CXT.hash("secret"))
    await Tortoise.close_connections()
asyncio.run(prepare())
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]))
"""


@dataclass
class Goose:
    """gooseBit, with what its user does."""

    base: str
    token: str = ""

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, kind: str = "application/json"
    ) -> Any:
        headers = {"Content-Type": kind, **({"Authorization": f"bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(self.base + path, body, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())

    def roll_out(self, bundle: Path) -> None:
        edge = b"--edge\r\n"
        name = f"{bundle.parent.name}.swu"
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        body = edge + head + bundle.read_bytes() + b"\r\n--edge--\r\n"
        number = self.ask("/api/v1/software", "PUT", body, "multipart/form-data; boundary=edge")["id"]
        wish = {"name": f"r{number}", "feed": "default", "software_id": number}
        self.ask("/api/v1/rollouts", "PUT", json.dumps(wish).encode())

    def device(self, name: str) -> dict[str, Any]:
        return next(row for row in self.ask("/api/v1/devices")["devices"] if row["id"] == name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def goose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Goose]:
    if not GOOSEBIT.exists():
        pytest.skip("GOOSEBIT_PYTHON names no Python that has goosebit")
    here, port = tmp_path_factory.mktemp("goosebit"), free_port()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"GOOSEBIT_DB_URI": f"sqlite://{here}/db.sqlite3", "GOOSEBIT_ARTIFACTS_DIR": str(here)}
    with (here / "log").open("w") as log:
        words = [str(GOOSEBIT), "-c", SERVE, str(port)]
        process = subprocess.Popen(words, cwd=here, env=environment, stdout=log, stderr=log)
    served = Goose(f"http://127.0.0.1:{port}")
    try:
        login = b"username=us&password=secret"
        for attempt in range(300):
            try:
                served.token = served.ask("/login", "POST", login, "application/x-www-form-urlencoded")[
                    "access_token"
                ]
                break
            except OSError:
                assert process.poll() is None, (here / "log").read_text()
                assert attempt < 299, (here / "log").read_text()
                time.sleep(0.1)
        yield served
    finally:
        process.terminate()
        process.wait(timeout=20)


def an_agent(goose: Goose, root: Path, key: SigningKey, name: str) -> tuple[UpdateAgent, list[str]]:
    board, said = make_board(root), list[str]()
    board.log = said.append
    board.set_trust(make_trust([key.public_key]), None)
    return UpdateAgent(board, DdiClient(f"{goose.base}/DEFAULT", name), NoAutopilot()), said


def flown(board: DeviceBoard) -> int | None:
    slot = board.read_state().current_slot
    return slot.counter if slot else None


def test_a_board_takes_what_goosebit_rolls_out_and_says_how_it_went(
    goose: Goose, make_bundle: MakeBundle, key: SigningKey, tmp_path: Path
) -> None:
    agent, said = an_agent(goose, tmp_path / "drone", key, "drone-1")
    assert agent.poll_once() == 10, "registered, and to ask again soon"
    goose.roll_out(make_bundle(counter=1))
    agent.poll_once()
    assert flown(agent.board) == 1
    told = goose.device("drone-1")
    assert (told["last_state"], told["sw_version"]) == ("Finished", "1.0.0")
    assert not list((agent.board.root / "arrived").iterdir())
    before = agent.board.read_state()
    agent.poll_once()
    assert agent.board.read_state() == before, "nothing more to do"

    goose.roll_out(make_bundle(counter=2))
    agent.autopilot = Armed()
    agent.poll_once()
    assert flown(agent.board) == 1, "not while it is armed"
    assert goose.device("drone-1")["last_state"] == "Running"
    agent.autopilot = NoAutopilot()
    agent.poll_once()
    assert flown(agent.board) == 2

    goose.roll_out(make_bundle(counter=3))
    agent.board.service = CommandService(("false",))
    agent.poll_once()
    assert flown(agent.board) == 2, "it went back"
    assert goose.device("drone-1")["last_state"] == "Error"
    assert any("did not stay healthy" in line for line in said)


class Armed(NoAutopilot):
    def check_disarmed(self) -> None:
        raise CheckError("the drone is armed")


@contextmanager
def answering(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers with `body`."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"config": 1}', b'{"config": {"polling": {"sleep": "soon"}}}',
             b'{"_links": {"deploymentBase": 7}, "config": {"polling": {"sleep": "00:01:00"}}}'],
)  # fmt: skip
def test_odd_answers_are_one_line(body: bytes) -> None:
    with (
        answering(type("Odd", (Quiet,), {"body": body})) as base,
        pytest.raises(ServerError, match="answered"),
    ):
        DdiClient(f"{base}/DEFAULT", "d").poll()


class Cutting(Quiet):
    """Serves `data` with ranges, and cuts the first answer off in its middle."""

    data = os.urandom(3_000_000)
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : None if asked else 1_000_000])


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    with answering(Cutting) as base:
        offered = Deployment("1", "", "b.swu", f"{base}/b.swu", len(Cutting.data))
        server = DdiClient(f"{base}/DEFAULT", "d")
        with pytest.raises(ServerError, match="broke off with 2000000 bytes to go"):
            server.download(offered, tmp_path / "b.swu")
        server.download(offered, tmp_path / "b.swu")
    assert (tmp_path / "b.swu").read_bytes() == Cutting.data
    assert Cutting.ranges == [None, "bytes=1000000-"]


@pytest.mark.parametrize(
    ("base", "device", "message"),
    [
        ("updates", "d", "is no server"),
        ("file:///etc", "d", "is no server"),
        ("http://updates.example.com/DEFAULT", "d", "expected https"),
        ("https://updates.example.com/DEFAULT", "a/../b", "the device's name"),
    ],
)
def test_wrong_servers_and_names_are_one_line(base: str, device: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DdiClient(base, device)


def test_links_to_files_are_not_followed(tmp_path: Path) -> None:
    server = DdiClient("http://127.0.0.1:1/DEFAULT", "d")
    with pytest.raises(ServerError, match="expected a link with http"):
        server.download(Deployment("1", "", "b.swu", "file:///etc/passwd", 10), tmp_path / "b")


class Silent:
    """A server that listens to feedback, and offers a download that somebody else does."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []

    def send_feedback(
        self, feedback: str, number: str, execution: str, finished: str, details: list[str]
    ) -> None:
        self.said.append((execution, finished, details[0]))


@pytest.mark.parametrize("why", ["armed at the switch", "busy", "no room"])
def test_what_says_nothing_against_a_bundle_is_waited_for(
    make_bundle: MakeBundle, key: SigningKey, tmp_path: Path, why: str
) -> None:
    board = make_board(tmp_path / "drone")
    board.set_trust(make_trust([key.public_key]), None)
    server, bundle = Silent(), make_bundle()

    class ArmedLater(NoAutopilot):
        asked = 0

        def check_disarmed(self) -> None:
            self.asked += 1
            if self.asked > 1:
                raise ArmedError("the drone is armed")

    def download(offered: Deployment, place: Path) -> None:
        del offered
        if why == "no room":
            raise InputError("cannot write it: is the disk full?")
        place.write_bytes(bundle.read_bytes())

    server.download = download  # type: ignore[attr-defined]
    agent = UpdateAgent(board, server, ArmedLater() if "armed" in why else NoAutopilot())  # type: ignore[arg-type]
    with board.lock() if why == "busy" else nullcontext():
        agent._deploy(Deployment("1", "f", "b.swu", "h", bundle.stat().st_size))
    assert server.said[-1][:2] == ("proceeding", "none")
    assert server.said[-1][2].startswith("waiting: ")
    assert flown(board) is None
    assert (board.root / "arrived" / "1.swu").exists() == (why != "no room"), "it need not come again"


@pytest.mark.parametrize(
    "waits",
    [{"update": "skip"}, {"update": "forced", "maintenanceWindow": "unavailable"}, {"download": "skip"}],
)
def test_nothing_is_installed_until_the_server_lets_it(
    make_bundle: MakeBundle, key: SigningKey, tmp_path: Path, waits: dict[str, str]
) -> None:
    bundle = make_bundle()
    offer: dict[str, str] = {"download": "attempt", **waits}
    said: list[str] = []

    class Hawk(Quiet):
        def do_GET(self) -> None:
            here = f"http://{self.headers['Host']}"
            artifact = {
                "filename": "b.swu",
                "size": bundle.stat().st_size,
                "_links": {"download": {"href": f"{here}/b.swu"}},
            }
            answer = {
                "config": {"polling": {"sleep": "00:00:10"}},
                "_links": {"deploymentBase": {"href": f"{here}/deployment"}},
                "id": "7",
                "deployment": {**offer, "chunks": [{"artifacts": [artifact]}]},
            }
            self.body = bundle.read_bytes() if self.path == "/b.swu" else json.dumps(answer).encode()
            super().do_GET()

        def do_POST(self) -> None:
            status = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["status"]
            said.append(status["execution"])
            self.send_response(200)
            self.end_headers()

    board = make_board(tmp_path / "drone")
    board.set_trust(make_trust([key.public_key]), None)
    with answering(Hawk) as base:
        agent = UpdateAgent(board, DdiClient(f"{base}/DEFAULT", "d"), NoAutopilot())
        for _ in range(3):
            agent.poll_once()
        assert flown(board) is None
        fetches = "download" not in waits
        assert said == (["proceeding", "downloaded"] if fetches else []), "told once, not at each poll"
        assert (board.root / "arrived" / "7.swu").exists() == fetches
        offer |= {"download": "attempt", "update": "attempt", "maintenanceWindow": "available"}
        agent.poll_once()
    assert flown(board) == 1
    assert said[-1] == "closed"


def test_a_download_larger_than_offered_is_begun_anew(tmp_path: Path) -> None:
    with answering(type("Whole", (Quiet,), {"body": b"bundle"})) as base:
        (tmp_path / "b.swu").write_bytes(b"something longer")
        DdiClient(f"{base}/DEFAULT", "d").download(
            Deployment("1", "", "b.swu", f"{base}/b", 6), tmp_path / "b.swu"
        )
    assert (tmp_path / "b.swu").read_bytes() == b"bundle"


@pytest.mark.parametrize("link", ["http://[", "http:///none", "http://a b/", "b.swu", "http://\udcff/"])
def test_odd_links_are_one_line(tmp_path: Path, link: str) -> None:
    with pytest.raises(ServerError) as told:
        DdiClient("http://127.0.0.1:1/DEFAULT", "d").download(
            Deployment("1", "", "b.swu", link, 10), tmp_path / "b"
        )
    assert "\n" not in str(told.value)
