"""Tests of rings, limits and retries of a roll-out, with a fake install that reaches no host."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge.core.errors import CheckError, InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed: pip install 'aerogaze[flash]'")
from jetson.deploy.host import Host
from jetson.deploy.push import UnreachableError
from jetson.fleet import progress_view
from jetson.fleet.inventory import load_inventory
from jetson.fleet.rollout import Rollout
from jetson.fleet.rollout_journal import RolloutJournal
from tests.support.fleets import write_inventory

STATUS = {"why": "int8: fastest of int8", "precision": "int8"}
FAST_RETRY = "[rollout]\nbackoff-s = 0.01\n"
Faults = Mapping[str, Callable[[int], Exception | None]]
"""By host: the error of its nth attempt, or None if that succeeds."""


class FakeInstall:
    """Install that succeeds or fails as requested, and records the order and the highest concurrency."""

    def __init__(self, faults: Faults, duration_s: float = 0.0) -> None:
        self.faults, self.duration_s = faults, duration_s
        self.started: list[str] = []
        self.running = self.max_running = 0

    async def __call__(self, host: Host) -> dict[str, Any]:
        name = host.address.split("@")[1]
        self.started.append(name)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await asyncio.sleep(self.duration_s * (len(self.started) % 3))
            fault = self.faults.get(name)
            error = fault(self.started.count(name)) if fault else None
            if error is not None:
                raise error
            return STATUS
        finally:
            self.running -= 1


def host_names(count: int) -> list[str]:
    return [f"pilot@d{number}" for number in range(count)]


def roll_out(
    folder: Path, count: int, text: str = FAST_RETRY, faults: Faults | None = None, duration_s: float = 0.0
) -> tuple[Rollout, FakeInstall]:
    """Run a roll-out on a number of hosts."""
    install = FakeInstall(faults or {}, duration_s)
    fleet = load_inventory(write_inventory(folder, host_names(count), text))
    rollout = Rollout(fleet, RolloutJournal(folder / "state", "0" * 64), install)
    asyncio.run(rollout.run())
    return rollout, install


def reject(attempt: int) -> Exception:
    return CheckError("the bundle is for board orin-nano; here is agx-orin")


def lose_connection(times: int) -> Callable[[int], Exception | None]:
    return lambda attempt: UnreachableError("cannot reach it") if attempt <= times else None


def test_rings_are_updated_one_after_the_other(tmp_path: Path) -> None:
    rollout, install = roll_out(tmp_path, 1000, "[rollout]\nat-once = 7\n", duration_s=0.001)
    assert [len(ring.hosts) for ring in rollout.inventory.rings] == [1, 100, 899]
    order = [int(name[1:]) for name in install.started]
    assert sorted(order) == list(range(1000))
    assert (order[0], set(order[1:101])) == (0, set(range(1, 101)))
    assert (rollout.stopped, rollout.failures, install.max_running) == (None, [], 7)


@pytest.mark.parametrize("failing", [10, 11])
def test_rollout_stops_when_failures_exceed_the_limit(tmp_path: Path, failing: int) -> None:
    faults = {f"d{number}": reject for number in range(1, 1 + failing)}
    rollout, install = roll_out(tmp_path, 1000, FAST_RETRY + "at-once = 5\n", faults)
    if failing == 10:
        assert (rollout.stopped, len(install.started)) == (None, 1000)
    else:
        assert rollout.stopped == "ring 2: 11 of 100 hosts failed; the limit is 10 %"
        assert len(install.started) <= 1 + 11 + 5, "running installs end, and no other starts"
    assert len(rollout.failures) == failing


def test_next_ring_needs_the_success_share(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = 10\nsuccess = "95%"\nerror = "50%"\n[[rings]]\nhosts = "all"\n'
    rollout, install = roll_out(tmp_path, 20, FAST_RETRY + rings, {"d3": reject})
    assert rollout.stopped == "ring 1: 9 of 10 hosts are done; the limit is 95 %"
    assert len(install.started) == 10


@pytest.mark.parametrize("share", ["7%", "29%", "57%"])
def test_failures_exactly_at_the_limit_do_not_stop(tmp_path: Path, share: str) -> None:
    """As floats, 0.07 * 100 is more than 7, and 1 - 0.07 is more than 0.93."""
    count = int(share[:-1])
    rings = f'[[rings]]\nhosts = "all"\nerror = "{share}"\nsuccess = "{100 - count}%"\n'
    rollout, _ = roll_out(
        tmp_path, 100, FAST_RETRY + rings, {f"d{number}": reject for number in range(count)}
    )
    assert rollout.stopped is None


def test_only_transient_errors_are_tried_again(tmp_path: Path) -> None:
    busy = "another aerogaze command works on the board /var/lib/aerogaze: wait until it has ended"
    faults: Faults = {
        "d1": lose_connection(2),
        "d2": fail_once(InputError(busy)),
        "d3": fail_once(
            CheckError("the drone is armed: nothing is installed or switched until it is disarmed")
        ),
        "d4": lose_connection(99),
        "d5": reject,
        "d6": lambda attempt: InputError("the host key of d6 is unknown"),
    }
    rings = '[[rings]]\nhosts = "all"\nerror = "100%"\nsuccess = "0%"\n'
    rollout, install = roll_out(tmp_path, 7, f"{FAST_RETRY}tries = 4\n{rings}", faults)
    assert {name: install.started.count(name) for name in (f"d{n}" for n in range(7))} == {
        "d0": 1, "d1": 3, "d2": 2, "d3": 2, "d4": 4, "d5": 1, "d6": 1,
    }  # fmt: skip
    assert sorted(rollout.failures) == ["pilot@d4", "pilot@d5", "pilot@d6"]
    assert rollout.journal["pilot@d1"].tries == 3


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Exceeds the limit (4300 digits) for integer string conversion"),
        RecursionError("maximum recursion depth exceeded"),
        KeyError("release"),
        TypeError("'int' object is not iterable"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        MemoryError(),
        AssertionError("x" * 100_000 + "\n"),
    ],
)
def test_any_exception_of_one_host_is_the_failure_of_that_host(tmp_path: Path, error: Exception) -> None:
    rings = '[[rings]]\nhosts = "all"\nerror = "100%"\nsuccess = "0%"\n'
    rollout, install = roll_out(tmp_path, 5, f"{FAST_RETRY}tries = 3\n{rings}", {"d2": lambda attempt: error})
    assert rollout.stopped is None
    assert rollout.failures == ["pilot@d2"]
    assert install.started.count("d2") == 1
    journal = RolloutJournal(tmp_path / "state", "0" * 64)
    assert {name for name, outcome in journal.items() if outcome.done} == {
        f"pilot@d{n}" for n in (0, 1, 3, 4)
    }
    why = journal["pilot@d2"].why
    assert why.startswith(f"its answer cannot be used ({type(error).__name__}")
    assert len(why) < 5000
    assert "\n" not in why


def fail_once(error: Exception) -> Callable[[int], Exception | None]:
    return lambda attempt: error if attempt == 1 else None


def test_hanging_host_fails_at_its_time_limit(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = "all"\nerror = "50%"\n'
    rollout, install = roll_out(tmp_path, 1, f"[rollout]\nlimit-s = 0.05\n{rings}", duration_s=1e6)
    assert (
        rollout.journal["pilot@d0"].why == "was not finished after 0.05 s; the board may still be installing"
    )
    assert (len(install.started), install.running) == (1, 0)


def test_stop_interrupts_waits_between_attempts(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = "all"\nerror = "10%"\n'
    text = f"[rollout]\nbackoff-s = 300\n{rings}"
    rollout, _ = roll_out(tmp_path, 5, text, {"d0": lose_connection(9), "d4": reject}, 0.05)
    assert rollout.stopped
    assert "pilot@d0" not in rollout.journal, "it is not finished, so the next call tries it"


def test_rollout_continues_with_unfinished_hosts(tmp_path: Path) -> None:
    first, _ = roll_out(tmp_path, 100, faults={"d2": reject, "d3": reject})
    assert first.stopped == "ring 2: 2 of 10 hosts failed; the limit is 10 %"
    left = [f"d{number}" for number in range(100) if f"pilot@d{number}" not in first.journal]
    again, install = roll_out(tmp_path, 100)
    assert (again.stopped, install.started) == (first.stopped, []), (
        "failed hosts count until they are forgotten"
    )
    again.journal.forget([name for name, outcome in again.journal.items() if not outcome.done])
    rollout, install = roll_out(tmp_path, 100)
    assert rollout.stopped is None
    assert sorted(install.started) == sorted(["d2", "d3", *left])
    rollout, install = roll_out(tmp_path, 120)
    assert sorted(install.started, key=lambda name: int(name[1:])) == [f"d{n}" for n in range(100, 120)]


def test_progress_view_fits_80_columns(tmp_path: Path) -> None:
    faults = {f"d{number}": reject for number in range(100, 1000, 20)}
    rollout, _ = roll_out(tmp_path, 1000, FAST_RETRY + "at-once = 500\n", faults)
    text = render_lines(progress_view.RolloutView(rollout))
    assert max(map(len, text)) <= 80
    assert len(text) <= 12, "a thousand hosts take three lines"
    assert text[1].split()[:6] == ["1", "1", "1", "0", "0", "0"]
    assert sum("the bundle is for board" in line for line in text) == progress_view.MAX_LIVE_FAILURES
    output = io.StringIO()
    progress_view.print_summary(rollout, Console(file=output, width=80))
    assert "chose int8 on 955" in output.getvalue()
    assert "45 failed; the last of them:" in output.getvalue()


def render_lines(view: progress_view.RolloutView) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=80, markup=False).print(view)
    return output.getvalue().splitlines()
