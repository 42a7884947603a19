"""A live run with clients that come and go: its memory, threads, files and sockets do not grow."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import pytest

from tests.support.ground_station import VEHICLE, GroundStation, common
from tests.support.live_runs import Resources, start_run, write_long_clip
from tests.support.ports import free_tcp_port, free_udp_port
from tests.support.waiting import wait_until

SOAK_S = float(os.environ.get("SOAK_S", "600"))
"""Duration; the environment variable `SOAK_S` sets another one."""
TOKEN = "a-token-of-mine"  # noqa: S105
PATHS = ("/", "/status.json", "/metrics", "/frame.jpg", "/healthz", "/nothing", "/%00")
LEAVES_AT_ONCE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which close() resets the connection."""
SETTLING_S = 12.0
"""Longer than the limits of the page for slow clients."""

Client = Callable[[random.Random, int], None]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def head(path: str, token: str = TOKEN) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def receive(client: socket.socket, seconds: float) -> bytes:
    """Receive until the server closes the connection or the time is over."""
    deadline_s, parts = time.monotonic() + seconds, [b""]
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < deadline_s:
            client.settimeout(max(0.01, deadline_s - time.monotonic()))
            if not (part := client.recv(65536)):
                break
            parts.append(part)
    return b"".join(parts)


def ask(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.sendall(head(rng.choice(PATHS)))
        receive(client, 5)


def ask_without_token(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.sendall(head(rng.choice(PATHS[:4]), rng.choice(["", "wrong", "x" * 9000])))
        answer = receive(client, 5)
        assert b" 200 " not in answer.partition(b"\r\n")[0], answer


def watch(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.sendall(head("/stream.mjpg"))
        receive(client, rng.uniform(0.5, 8))


def watch_and_reset(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.sendall(head("/stream.mjpg"))
        receive(client, rng.uniform(0, 2))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LEAVES_AT_ONCE)


def watch_without_reading(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.sendall(head("/stream.mjpg"))
        time.sleep(rng.uniform(1, 12))


def ask_slowly(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        for byte in head("/status.json"):
            client.sendall(bytes([byte]))
            time.sleep(rng.uniform(0.01, 0.3))


def ask_incompletely(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        request = head("/status.json")
        client.sendall(request[: rng.randrange(len(request))])
        time.sleep(rng.uniform(0, 4))


def send_garbage(rng: random.Random, port: int) -> None:
    with connect(port) as client:
        client.sendall(rng.randbytes(rng.randrange(1, 20_000)))
        receive(client, 3)


def come_in_crowds(rng: random.Random, port: int) -> None:
    with contextlib.ExitStack() as crowd:
        clients = [crowd.enter_context(connect(port)) for _ in range(rng.randrange(20, 80))]
        for client in rng.sample(clients, len(clients) // 4):
            with contextlib.suppress(OSError):
                client.sendall(head(rng.choice(PATHS)))
        time.sleep(rng.uniform(0, 3))


CLIENTS: list[Client] = [
    ask, ask, ask_without_token, watch, watch_and_reset, watch_without_reading,
    ask_slowly, ask_incompletely, send_garbage, come_in_crowds,
]  # fmt: skip


class Visitors:
    """Threads that act as random clients until `leave` is called.

    Attributes:
        visits: Number of finished clients.
        failures: Assertions that failed.
    """

    def __init__(self, port: int, count: int) -> None:
        self.visits, self.failures = 0, list[str]()
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(seed,)) for seed in range(count)]
        for thread in self._threads:
            thread.start()

    def _visit(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311
        while not self._stop.wait(rng.expovariate(1)):
            try:
                rng.choice(CLIENTS)(rng, self._port)
            except OSError:  # disconnected: the page may do that to any of them
                pass
            except AssertionError as error:
                self.failures.append(str(error))
            self.visits += 1

    def leave(self) -> None:
        """Let the clients end, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def play_ground_station(port: int, seconds: float) -> int:
    """Appear as a ground station, ask the camera for its descriptions, and vanish; return what was heard."""
    station = GroundStation(port=port)
    station.listen(1.5)
    if station.received:
        station.mav.heartbeat_send(common.MAV_TYPE_GCS, common.MAV_AUTOPILOT_INVALID, 0, 0, 0)
        station.command(common.MAV_CMD_REQUEST_MESSAGE, common.MAVLINK_MSG_ID_CAMERA_INFORMATION)
        station.write(b"\xfd" + bytes(40) + b"\xfe\x00garbage")
        station.listen(seconds)
    station.socket.close()
    return len(station.received)


def is_healthy(port: int) -> bool:
    with contextlib.suppress(OSError), connect(port) as client:
        client.sendall(head("/healthz", ""))
        return b" 200 " in receive(client, 10).partition(b"\r\n")[0]
    return False


@pytest.mark.long
def test_live_run_with_clients_that_come_and_go_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # as in the service
    rng = random.Random(SOAK_S)  # noqa: S311
    clip = write_long_clip(tmp_path / "clip.mp4", SOAK_S + 300)
    http, mavlink, log = free_tcp_port(), free_udp_port(), tmp_path / "log"
    run = start_run(
        log, clip, "--realtime", "--json",
        "--http", f"0.0.0.0:{http}", "--http-token", TOKEN,
        "--mavlink", f"udpout:127.0.0.1:{mavlink}", "--mavlink-system", str(VEHICLE),
        "--overlay", tmp_path / "flight.mkv", "--jsonl", tmp_path / "flight.jsonl",
    )  # fmt: skip
    recordings = [tmp_path / "flight.mkv", tmp_path / "flight.jsonl"]
    readings: list[tuple[float, Resources]] = []
    try:
        assert wait_until(lambda: is_healthy(http), 120), log.read_text()
        time.sleep(SETTLING_S)
        calm = Resources.of(run.pid)
        start_s, heard, visitors = time.monotonic(), 0, Visitors(http, 4)
        try:
            while (seconds := time.monotonic() - start_s) < SOAK_S:
                heard += play_ground_station(mavlink, rng.uniform(0, 3)) if rng.random() < 0.5 else 0
                time.sleep(rng.uniform(1, 4))
                assert wait_until(lambda: is_healthy(http), 120), log.read_text()
                readings.append((seconds, Resources.of(run.pid)))
        finally:
            visitors.leave()
        time.sleep(SETTLING_S)
        after = Resources.of(run.pid)
    finally:
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=60)
    summary = json.loads(output)
    print(f"{visitors.visits} clients, {heard} MAVLink messages; calm: {calm}, after: {after}")
    for seconds, resources in readings[:: max(1, len(readings) // 20)]:
        print(f"{seconds:6.0f} s: {resources}")
    print({key: summary[key] for key in ("frames", "dropped", "faults")})
    assert run.returncode == 0
    assert not visitors.failures
    assert "Traceback" not in log.read_text()
    assert (after.threads, after.files) == (calm.threads, calm.files)
    early, late = (
        median(resources.resident_mb for _, resources in part)
        for part in (readings[len(readings) // 4 : len(readings) // 2], readings[-len(readings) // 4 :])
    )
    assert late < early + 15
    rows = [json.loads(line)["frame"] for line in recordings[1].read_text().splitlines()]
    assert rows == sorted(set(rows))
    capture, frames = cv2.VideoCapture(str(recordings[0])), 0
    while capture.grab():
        frames += 1
    assert min(len(rows), frames) > SOAK_S, "one a second, however slow the machine is"
