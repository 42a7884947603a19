"""A bundle onto a fleet, ring after ring, until all have it or too many failed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from edge.core.errors import CheckError, InputError
from jetson.deploy.host import Host
from jetson.deploy.push import LoadedBundle, is_transient
from jetson.fleet.inventory import Inventory, Ring
from jetson.fleet.rollout_journal import HostOutcome, RolloutJournal

CORES = len(os.sched_getaffinity(0))
LONGEST_WAIT_S = 300.0
"""Between two tries of a host."""
Install = Callable[[Host], Awaitable[dict[str, Any]]]
"""Puts the bundle onto a host, and returns its status then."""


def make_installer(cargo: LoadedBundle) -> Install:
    """Return what puts this bundle onto a host."""
    return lambda host: host.flash(cargo, log=lambda line: None, on_progress=lambda done, of: None)


@dataclass(frozen=True)
class RingProgress:
    """Hosts of a ring by where they are."""

    hosts: int
    done: int
    failed: int
    running: int

    @property
    def left(self) -> int:
        """Hosts that have not ended."""
        return self.hosts - self.done - self.failed

    def reaches(self, many: int, share: float) -> bool:
        """Say whether so many are at least a share of the hosts, whatever floats make of it."""
        return many >= round(share * self.hosts, 6)


@dataclass
class Rollout:
    """Goes on from the outcomes that are there; each is noted before the host counts as ended.

    `stopped`: why no more hosts are begun; None while all is well. `failures`: names, the latest last.
    """

    inventory: Inventory
    outcomes: RolloutJournal
    install: Install
    tell: Callable[[str], None] = lambda line: None
    stopped: str | None = None
    failures: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    _halt: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, ring: Ring) -> RingProgress:
        """Return how far a ring is."""
        ended = [self.outcomes[name].done for name in ring.hosts if name in self.outcomes]
        running = len(self.running & set(ring.hosts))
        return RingProgress(len(ring.hosts), sum(ended), len(ended) - sum(ended), running)

    async def run(self) -> None:
        """Go through the rings."""
        policy = self.inventory.policy
        self.failures += [name for name in self.inventory.hosts if self._failed(name)]
        # Boards that are folders share this machine's cores: more at once would spoil what they measure.
        remote = asyncio.Semaphore(policy.at_once)
        here = asyncio.Semaphore(min(policy.at_once, CORES))
        for ring in self.inventory.rings:
            self._judge(ring)
            todo = {name: host for name, host in ring.hosts.items() if name not in self.outcomes}
            if todo and not self.stopped:
                self.tell(f"ring {ring.number}: {len(todo)} hosts")
            await asyncio.gather(
                *(self._host(ring, name, remote if host.login else here) for name, host in todo.items())
            )
            count = self.count(ring)
            if not count.reaches(count.done, ring.success):
                self._stop(f"ring {ring.number}: {count.done} of {count.hosts} hosts have it", ring.success)
            if self.stopped:
                return

    async def _host(self, ring: Ring, name: str, free: asyncio.Semaphore) -> None:
        """Try a host until it ends, or the roll-out stops before its next try."""
        policy, tries, begun = self.inventory.policy, 0, time.monotonic()
        host = ring.hosts[name]
        while True:
            async with free:
                if self.stopped:
                    return
                begun = time.monotonic() if tries == 0 else begun
                tries += 1
                self.running.add(name)
                try:
                    done, why, precision, passing = await self._try(host)
                finally:
                    self.running.discard(name)
                if not passing or tries == policy.tries:
                    seconds = round(time.monotonic() - begun, 3)
                    self.outcomes.record(
                        name, HostOutcome(host.place, done, why, precision, tries, seconds, int(time.time()))
                    )
                    if not done:
                        self.failures.append(name)
                        self.tell(f"{name} failed: {why}")
                    self._judge(ring)
                    return
            wait_s = min(policy.backoff_s * 2 ** (tries - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1)  # noqa: S311
            self.tell(f"{name}: {why}; again in {wait_s:.1f} s")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._halt.wait(), wait_s)

    async def _try(self, host: Host) -> tuple[bool, str, str | None, bool]:
        limit_s = self.inventory.policy.limit_s
        try:
            status = await asyncio.wait_for(self.install(host), limit_s)
        except (InputError, CheckError) as error:
            return False, " ".join(str(error).split()), None, is_transient(error)
        except asyncio.TimeoutError:
            return False, f"did not end in {limit_s:g} s; it may go on by itself", None, False
        return True, str(status["why"]), str(status["precision"]), False

    def _judge(self, ring: Ring) -> None:
        count = self.count(ring)
        if count.failed and not count.reaches(count.hosts - count.failed, 1 - ring.error):
            self._stop(f"ring {ring.number}: {count.failed} of {count.hosts} hosts failed", ring.error)

    def _stop(self, why: str, bound: float) -> None:
        if self.stopped is None:
            self.stopped = f"{why}; the bound is {bound * 100:g} %"
            self._halt.set()

    def _failed(self, name: str) -> bool:
        return name in self.outcomes and not self.outcomes[name].done
