"""Rings, thresholds, retries and limits, with installs that take no time; hosts are never reached."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge.core.errors import CheckError, InputError

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
from jetson.deploy.host import Host
from jetson.deploy.push import UnreachableError
from jetson.fleet import progress_view as fleet_view
from jetson.fleet.inventory import load_inventory
from jetson.fleet.rollout import Rollout
from jetson.fleet.rollout_journal import RolloutJournal
from tests.support.fleets import inventory

STATUS = {"why": "int8: fastest of int8", "precision": "int8"}
SWIFT = "[rollout]\nbackoff-s = 0.01\n"
Faults = Mapping[str, Callable[[int], Exception | None]]
"""By host: what goes wrong in its nth try."""


class Stand:
    """Installs at once, or fails as asked; remembers the order, and how many were under way together."""

    def __init__(self, faults: Faults, takes_s: float = 0.0) -> None:
        self.faults, self.takes_s = faults, takes_s
        self.begun: list[str] = []
        self.now = self.most = 0

    async def __call__(self, host: Host) -> dict[str, Any]:
        name = host.address.split("@")[1]
        self.begun.append(name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.takes_s * (len(self.begun) % 3))
            fault = self.faults.get(name)
            error = fault(self.begun.count(name)) if fault else None
            if error is not None:
                raise error
            return STATUS
        finally:
            self.now -= 1


def names(count: int) -> list[str]:
    return [f"pilot@d{number}" for number in range(count)]


def rolled(
    folder: Path, count: int, text: str = SWIFT, faults: Faults | None = None, takes_s: float = 0.0
) -> tuple[Rollout, Stand]:
    """Roll out onto so many hosts, and return how that went."""
    stand = Stand(faults or {}, takes_s)
    fleet = load_inventory(inventory(folder, names(count), text))
    rollout = Rollout(fleet, RolloutJournal(folder / "state", "0" * 64), stand)
    asyncio.run(rollout.run())
    return rollout, stand


def refused(at: int) -> Exception:
    return CheckError("the bundle is for board orin-nano; here is agx-orin")


def lost(times: int) -> Callable[[int], Exception | None]:
    return lambda at: UnreachableError("cannot reach it") if at <= times else None


def test_rings_follow_each_other(tmp_path: Path) -> None:
    rollout, stand = rolled(tmp_path, 1000, "[rollout]\nat-once = 7\n", takes_s=0.001)
    assert [len(ring.hosts) for ring in rollout.inventory.rings] == [1, 100, 899]
    order = [int(name[1:]) for name in stand.begun]
    assert sorted(order) == list(range(1000))
    assert (order[0], set(order[1:101])) == (0, set(range(1, 101)))
    assert (rollout.stopped, rollout.failures, stand.most) == (None, [], 7)


@pytest.mark.parametrize("failing", [10, 11])
def test_it_stops_once_more_than_the_bound_failed(tmp_path: Path, failing: int) -> None:
    faults = {f"d{number}": refused for number in range(1, 1 + failing)}
    rollout, stand = rolled(tmp_path, 1000, SWIFT + "at-once = 5\n", faults)
    if failing == 10:
        assert (rollout.stopped, len(stand.begun)) == (None, 1000)
    else:
        assert rollout.stopped == "ring 2: 11 of 100 hosts failed; the bound is 10 %"
        assert len(stand.begun) <= 1 + 11 + 5, "those under way end, no other is begun"
    assert len(rollout.failures) == failing


def test_the_next_ring_waits_for_enough_successes(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = 10\nsuccess = "95%"\nerror = "50%"\n[[rings]]\nhosts = "all"\n'
    rollout, stand = rolled(tmp_path, 20, SWIFT + rings, {"d3": refused})
    assert rollout.stopped == "ring 1: 9 of 10 hosts have it; the bound is 95 %"
    assert len(stand.begun) == 10


@pytest.mark.parametrize("share", ["7%", "29%", "57%"])
def test_a_bound_that_is_just_held_is_held(tmp_path: Path, share: str) -> None:
    """As floats, .07 * 100 is more than 7, and 1 - .07 is more than .93."""
    many = int(share[:-1])
    rings = f'[[rings]]\nhosts = "all"\nerror = "{share}"\nsuccess = "{100 - many}%"\n'
    rollout, _ = rolled(tmp_path, 100, SWIFT + rings, {f"d{number}": refused for number in range(many)})
    assert rollout.stopped is None


def test_only_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    busy = "another aerogaze command works on the board /var/lib/aerogaze: wait until it has ended"
    faults: Faults = {
        "d1": lost(2),
        "d2": lifted(InputError(busy)),
        "d3": lifted(CheckError("the drone is armed: nothing is installed or switched until it is disarmed")),
        "d4": lost(99),
        "d5": refused,
        "d6": lambda at: InputError("the host key of d6 is not the one that is known"),
    }
    rings = '[[rings]]\nhosts = "all"\nerror = "100%"\nsuccess = "0%"\n'
    rollout, stand = rolled(tmp_path, 7, f"{SWIFT}tries = 4\n{rings}", faults)
    assert {name: stand.begun.count(name) for name in (f"d{n}" for n in range(7))} == {
        "d0": 1, "d1": 3, "d2": 2, "d3": 2, "d4": 4, "d5": 1, "d6": 1,
    }  # fmt: skip
    assert sorted(rollout.failures) == ["pilot@d4", "pilot@d5", "pilot@d6"]
    assert rollout.outcomes["pilot@d1"].tries == 3


def lifted(error: Exception) -> Callable[[int], Exception | None]:
    return lambda at: error if at == 1 else None


def test_a_host_that_does_not_end_costs_its_limit(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = "all"\nerror = "50%"\n'
    rollout, stand = rolled(tmp_path, 1, f"[rollout]\nlimit-s = 0.05\n{rings}", takes_s=1e6)
    assert rollout.outcomes["pilot@d0"].why == "did not end in 0.05 s; it may go on by itself"
    assert (len(stand.begun), stand.now) == (1, 0)


def test_a_stop_does_not_wait_for_those_that_wait(tmp_path: Path) -> None:
    rings = '[[rings]]\nhosts = "all"\nerror = "10%"\n'
    text = f"[rollout]\nbackoff-s = 300\n{rings}"
    rollout, _ = rolled(tmp_path, 5, text, {"d0": lost(9), "d4": refused}, 0.05)
    assert rollout.stopped
    assert "pilot@d0" not in rollout.outcomes, "it is left, to be tried when the roll-out goes on"


def test_it_goes_on_with_those_not_done(tmp_path: Path) -> None:
    first, _ = rolled(tmp_path, 100, faults={"d2": refused, "d3": refused})
    assert first.stopped == "ring 2: 2 of 10 hosts failed; the bound is 10 %"
    left = [f"d{number}" for number in range(100) if f"pilot@d{number}" not in first.outcomes]
    again, stand = rolled(tmp_path, 100)
    assert (again.stopped, stand.begun) == (first.stopped, []), "failed hosts count until they are forgotten"
    again.outcomes.forget([name for name, ended in again.outcomes.items() if not ended.done])
    rollout, stand = rolled(tmp_path, 100)
    assert rollout.stopped is None
    assert sorted(stand.begun) == sorted(["d2", "d3", *left])
    rollout, stand = rolled(tmp_path, 120)
    assert sorted(stand.begun, key=lambda name: int(name[1:])) == [f"d{n}" for n in range(100, 120)]


def test_the_table_fits_80_columns(tmp_path: Path) -> None:
    faults = {f"d{number}": refused for number in range(100, 2000, 20)}
    rollout, _ = rolled(tmp_path, 2000, SWIFT + "at-once = 500\n", faults)
    text = drawn(fleet_view.Live(rollout))
    assert max(map(len, text)) <= 80
    assert len(text) <= 12, "thousands of hosts are three rings"
    assert text[1].split()[:6] == ["1", "1", "1", "0", "0", "0"]
    assert sum("the bundle is for board" in line for line in text) == fleet_view.LAST
    shown = io.StringIO()
    fleet_view.end(rollout, Console(file=shown, width=80))
    assert "chose int8 on 1905" in shown.getvalue()
    assert "95 failed, the last of them:" in shown.getvalue()


def drawn(table: fleet_view.Live) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=80, markup=False).print(table)
    return shown.getvalue().splitlines()
