"""RTSP server on loopback: started, killed while it streams, and started again with larger frames."""

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
from edge.core.frames import Source
from edge.core.run_status import RunInfo, Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, RunSummary, run_pipeline, run_together
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.sources.factory import open_source
from tests.support.live_doubles import ScriptedCamera
from tests.support.ports import free_tcp_port
from tests.support.waiting import aerogaze_threads, wait_until

DEBIAN = "/usr/bin/python3"
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
Start = Callable[[int, int], "subprocess.Popen[str]"]


@pytest.fixture
def url() -> str:
    return f"rtsp://127.0.0.1:{free_tcp_port()}/camera"


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Start servers with frames of a given size; all of them are killed at the end."""
    if not Path(DEBIAN).exists() or subprocess.run([DEBIAN, "-c", NEEDS], capture_output=True).returncode:
        pytest.skip("no GStreamer RTSP server: Debian's python3-gi, gir1.2-gst-rtsp-server-1.0")
    started: list[subprocess.Popen[str]] = []

    def run(width: int, height: int) -> subprocess.Popen[str]:
        port = url.split(":")[2].split("/")[0]
        arguments = [
            DEBIAN,
            str(Path(__file__).parents[1] / "support" / "rtsp_server.py"),
            port,
            str(width),
            str(height),
        ]
        server = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        return server

    yield run
    for server in started:
        with server:  # which closes its pipe
            server.kill()


def wait_for(condition: Callable[[], bool]) -> float:
    """Wait until a condition is true; return the time that it took."""
    started_s = time.monotonic()
    assert wait_until(condition)
    return time.monotonic() - started_s


def test_run_survives_a_server_that_is_killed_and_restarted(url: str, start: Start) -> None:
    server = start(320, 240)
    status = Status(RunInfo("skd-64", "int8", "test", url))
    model, source, stop = SaliencyModel("skd-64", None, 1), open_source(url), threading.Event()
    results: list[Result] = []
    detection_s: list[float] = []

    def restart_server() -> None:
        wait_for(lambda: len(results) >= 20)
        server.kill()
        server.wait()
        detection_s.append(wait_for(lambda: "source" in status.snapshot().open_faults))
        start(640, 480)
        count = len(results)
        wait_for(lambda: len(results) >= count + 20)
        stop.set()

    restarting = threading.Thread(target=restart_server)
    restarting.start()
    settings = LiveSettings(lambda: open_source(url), lambda: SaliencyModel("skd-64", None, 1))
    hooks = RunHooks(on_result=results.append)
    summary = run_pipeline(source, model, [], live=settings, status=status, stop=stop, hooks=hooks)
    restarting.join()
    assert detection_s[0] < 2
    assert summary.faults == {"source": 1}
    indices = [result.frame.index for result in results]
    assert indices == sorted(set(indices))
    assert [result.frame.width for result in (results[0], results[-1])] == [320, 640]
    assert not aerogaze_threads()


def test_camera_that_stalls_does_not_stop_the_other_one(url: str, start: Start) -> None:
    server, stop = start(320, 240), threading.Event()
    first = SaliencyModel("skd-64", None, 1)
    second = first.share()
    assert second is not None
    statuses = {
        name: Status(RunInfo("skd-64", "int8", "test", name), camera=name) for name in ("rtsp", "usb")
    }
    states: list[str] = []

    def watch() -> None:
        def frames(name: str) -> int:
            return statuses[name].snapshot().frames

        try:
            wait_for(lambda: min(frames("rtsp"), frames("usb")) >= 10)
            server.send_signal(signal.SIGSTOP)
            wait_for(lambda: statuses["rtsp"].state == "stalled")
            count = frames("usb")
            wait_for(lambda: frames("usb") >= count + 20)
            states.append(statuses["usb"].state)
            server.send_signal(signal.SIGCONT)
            wait_for(lambda: statuses["rtsp"].state == "running")
            states.append(statuses["rtsp"].state)
        finally:
            stop.set()

    def run(
        name: str, source: Source, model: SaliencyModel, reopen: Callable[[], Source] | None
    ) -> RunSummary:
        live = LiveSettings(reopen, lambda: SaliencyModel("skd-64", None, 1))
        return run_pipeline(source, model, [], live=live, status=statuses[name], stop=stop)

    runs = {
        "rtsp": lambda: run("rtsp", open_source(url), first, lambda: open_source(url)),
        "usb": lambda: run("usb", ScriptedCamera(range(10**6)), second, None),
    }
    watching = threading.Thread(target=watch)
    watching.start()
    summaries = run_together(runs, lambda: None)
    watching.join()
    assert states == ["running", "running"]
    faults = [each.faults for each in summaries.values() if isinstance(each, RunSummary)]
    assert faults == [{"source": 1}, {}]
    assert not aerogaze_threads()


@pytest.mark.long
def test_run_survives_a_server_that_is_killed_and_stopped_at_random(
    url: str, start: Start, tmp_path: Path
) -> None:
    """Two minutes, or the seconds in the environment variable `KILLS_S`; the run is a process of its own."""
    seconds = float(os.environ.get("KILLS_S", "120"))
    rng, end_s = random.Random(seconds), time.monotonic() + seconds  # noqa: S311
    sizes = [(320, 240), (640, 480)]
    server = start(*sizes[0])
    arguments = [
        sys.executable,
        "-m",
        "edge.cli.main",
        "run",
        url,
        "--jsonl",
        str(tmp_path / "o.jsonl"),
        "--json",
    ]
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    memory: list[tuple[float, int, int]] = []
    killed = 0
    while time.monotonic() < end_s:
        time.sleep(rng.uniform(1, 8))
        memory.append((time.monotonic() - end_s + seconds, *_resources(run.pid)))
        if rng.random() < 0.3:
            server.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.2, 4))
            server.send_signal(signal.SIGCONT)
            continue
        server.kill()
        server.wait()
        killed += 1
        time.sleep(rng.uniform(0, 3))
        server = start(*rng.choice(sizes))
    time.sleep(12)  # the longest back-off, and some frames
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=30)
    print(f"{killed} kills; seconds, MB, files: {memory[:: max(1, len(memory) // 20)]}")
    assert run.returncode == 0
    summary = json.loads(output)
    print({key: summary[key] for key in ("frames", "dropped", "faults")})
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    ids = [row["frame"] for row in rows]
    assert ids == sorted(set(ids))
    # A server that continues after SIGSTOP sends many frames at once; the sink may drop some of them.
    overloads = summary["faults"].get("sink:jsonl", 0)
    assert 0 <= summary["frames"] - len(rows) <= 10 * overloads
    assert len(rows) > 5 * seconds
    assert 1 <= summary["faults"]["source"] <= killed + 20
    first, second = (
        mean(mb for _, mb, _ in part) for part in (memory[: len(memory) // 2], memory[len(memory) // 2 :])
    )
    assert second < first + 15, "memory rises for some minutes, and then stays constant"
    assert memory[-1][2] <= memory[0][2] + 3


def _resources(pid: int) -> tuple[int, int]:
    """Return the resident memory in MB and the number of open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return resident // 1024, len(os.listdir(f"/proc/{pid}/fd"))


def test_unreachable_server_is_one_clear_line(url: str) -> None:
    with pytest.raises(InputError, match="gives no video; expected an RTSP server"):
        open_source(url)


def test_silent_server_is_given_up(url: str) -> None:
    with socket.create_server(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
        started_s = time.monotonic()
        with pytest.raises(InputError, match="gives no video"):
            open_source(url)
    assert time.monotonic() - started_s < 10
