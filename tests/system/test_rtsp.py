"""A real RTSP server on loopback: started, killed while it streams, and started again with other frames."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import pytest

from edge.core.errors import InputError
from edge.core.run_status import RunInfo, Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.sources.factory import open_source

DEBIAN = "/usr/bin/python3"
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
Start = Callable[[int, int], "subprocess.Popen[str]"]


@pytest.fixture
def url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"rtsp://127.0.0.1:{free.getsockname()[1]}/camera"


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Start the server with frames of a size; all that were started are killed in the end."""
    if not Path(DEBIAN).exists() or subprocess.run([DEBIAN, "-c", NEEDS], capture_output=True).returncode:
        pytest.skip("no GStreamer RTSP server: Debian's python3-gi, gir1.2-gst-rtsp-server-1.0")
    started: list[subprocess.Popen[str]] = []

    def run(width: int, height: int) -> subprocess.Popen[str]:
        port = url.split(":")[2].split("/")[0]
        words = [
            DEBIAN,
            str(Path(__file__).parents[1] / "support" / "rtsp_server.py"),
            port,
            str(width),
            str(height),
        ]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        return server

    yield run
    for server in started:
        with server:  # which closes its pipe
            server.kill()


def wait_for(what: Callable[[], bool], seconds: float = 20) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_server_that_is_killed_and_comes_back_is_survived(url: str, start: Start) -> None:
    server = start(320, 240)
    status = Status(RunInfo("skd-64", "int8", "test", url))
    model, source, stop = SaliencyModel(None, None, 1), open_source(url), threading.Event()
    results: list[Result] = []
    noticed: list[float] = []

    def disturb() -> None:
        wait_for(lambda: len(results) >= 20)
        server.kill()
        server.wait()
        noticed.append(wait_for(lambda: "source" in status.snapshot().open_faults))
        start(640, 480)
        before = len(results)
        wait_for(lambda: len(results) >= before + 20)
        stop.set()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    settings = LiveSettings(lambda: open_source(url), lambda: SaliencyModel(None, None, 1))
    hooks = RunHooks(on_result=results.append)
    summary = run_pipeline(source, model, [], live=settings, status=status, stop=stop, hooks=hooks)
    disturbing.join()
    assert noticed[0] < 2
    assert summary.faults == {"source": 1}
    indices = [result.frame.index for result in results]
    assert indices == sorted(set(indices))
    assert [result.frame.width for result in (results[0], results[-1])] == [320, 640]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aerogaze")]


@pytest.mark.long
def test_a_server_that_is_killed_and_stopped_by_chance_is_survived(
    url: str, start: Start, tmp_path: Path
) -> None:
    """For two minutes, or for the seconds that the environment's `KILLS_S` says; the run is a process."""
    seconds = float(os.environ.get("KILLS_S", "120"))
    chance, end = random.Random(seconds), time.monotonic() + seconds  # noqa: S311
    sizes = [(320, 240), (640, 480)]
    server = start(*sizes[0])
    words = [
        sys.executable,
        "-m",
        "edge.cli.main",
        "run",
        url,
        "--jsonl",
        str(tmp_path / "o.jsonl"),
        "--json",
    ]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    memory: list[tuple[float, int, int]] = []
    killed = 0
    while time.monotonic() < end:
        time.sleep(chance.uniform(1, 8))
        memory.append((time.monotonic() - end + seconds, *_taken(run.pid)))
        if chance.random() < 0.3:
            server.send_signal(signal.SIGSTOP)
            time.sleep(chance.uniform(0.2, 4))
            server.send_signal(signal.SIGCONT)
            continue
        server.kill()
        server.wait()
        killed += 1
        time.sleep(chance.uniform(0, 3))
        server = start(*chance.choice(sizes))
    time.sleep(12)  # its longest wait, and some frames
    run.send_signal(signal.SIGTERM)
    told, _ = run.communicate(timeout=30)
    print(f"{killed} kills; seconds, MB, files: {memory[:: max(1, len(memory) // 20)]}")
    assert run.returncode == 0
    summary = json.loads(told)
    print({key: summary[key] for key in ("frames", "dropped", "faults")})
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    ids = [row["frame"] for row in rows]
    assert ids == sorted(set(ids))
    late = summary["faults"].get("sink:jsonl", 0)  # the server's frames come at once when it goes on
    assert 0 <= summary["frames"] - len(rows) <= 10 * late
    assert len(rows) > 5 * seconds
    assert 1 <= summary["faults"]["source"] <= killed + 20
    first, second = (
        mean(mb for _, mb, _ in part) for part in (memory[: len(memory) // 2], memory[len(memory) // 2 :])
    )
    assert second < first + 15, "it rises for some minutes, and then stands"
    assert memory[-1][2] <= memory[0][2] + 3


def _taken(pid: int) -> tuple[int, int]:
    """Return the resident megabytes and the open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return resident // 1024, len(os.listdir(f"/proc/{pid}/fd"))


def test_nobody_who_answers_is_one_line(url: str) -> None:
    with pytest.raises(InputError, match="gives no video; expected an RTSP server"):
        open_source(url)


def test_a_server_that_says_nothing_is_given_up(url: str) -> None:
    with socket.create_server(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
        began = time.monotonic()
        with pytest.raises(InputError, match="gives no video"):
            open_source(url)
    assert time.monotonic() - began < 10
