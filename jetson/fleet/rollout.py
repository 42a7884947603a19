"""Roll-out of a bundle to a fleet, ring after ring, until all hosts have it or too many failed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edge.core.errors import CheckError, InputError
from edge.core.foreign_text import printable
from jetson.deploy.host import Host
from jetson.deploy.push import LoadedBundle, describe_unforeseen, is_transient
from jetson.fleet.inventory import Inventory, Ring
from jetson.fleet.rollout_journal import HostOutcome, RolloutJournal

CPU_CORES = len(os.sched_getaffinity(0))
MAX_BACKOFF_S = 300.0
"""Longest wait between two attempts of a host."""
MAX_REASON_CHARS = 4096
"""Longest reason that the journal keeps of a host."""
Install = Callable[[Host], Awaitable[dict[str, Any]]]
"""Installs the bundle on a host, and returns the status of the board after that."""


def make_installer(bundle: LoadedBundle) -> Install:
    """Return a function that installs this bundle on a host, without progress."""
    return lambda host: host.flash(bundle, log=lambda line: None, on_progress=lambda sent, total: None)


@dataclass(frozen=True)
class RingProgress:
    """Number of hosts of a ring in each state."""

    hosts: int
    done: int
    failed: int
    running: int

    @property
    def left(self) -> int:
        """Number of hosts that are not finished."""
        return self.hosts - self.done - self.failed

    def reaches(self, count: int, share: float) -> bool:
        """Return whether `count` hosts are at least a share of all, without errors of floating point."""
        return count >= round(share * self.hosts, 6)


class _Attempt(NamedTuple):
    """Result of one attempt to install on a host."""

    done: bool
    why: str
    precision: str | None
    may_retry: bool


@dataclass
class Rollout:
    """A roll-out that continues from the outcomes in its journal.

    The outcome of a host is written to the journal before the host counts as finished.

    Attributes:
        inventory: The fleet.
        journal: Outcomes of the finished hosts.
        install: Installs the bundle on a host.
        log: Called with each line of progress.
        stopped: Why no further host is started; None as long as the limits of the rings hold.
        failures: Names of the failed hosts, the latest last.
        running: Names of the hosts with an attempt under way.
    """

    inventory: Inventory
    journal: RolloutJournal
    install: Install
    log: Callable[[str], None] = lambda line: None
    stopped: str | None = None
    failures: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    _stop_event: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self, ring: Ring) -> RingProgress:
        """Return the number of hosts of a ring in each state."""
        finished = [self.journal[name].done for name in ring.hosts if name in self.journal]
        running = len(self.running & set(ring.hosts))
        return RingProgress(len(ring.hosts), sum(finished), len(finished) - sum(finished), running)

    async def run(self) -> None:
        """Install the bundle, ring after ring, until all hosts are finished or a limit is exceeded."""
        policy = self.inventory.policy
        self.failures += [name for name in self.inventory.hosts if self._has_failed(name)]
        remote_slots = asyncio.Semaphore(policy.at_once)
        # Folders that stand in for boards measure latencies on this machine: more of them than cores would
        # disturb each other.
        local_slots = asyncio.Semaphore(min(policy.at_once, CPU_CORES))
        for ring in self.inventory.rings:
            self._check_error_limit(ring)
            todo = {name: host for name, host in ring.hosts.items() if name not in self.journal}
            if todo and not self.stopped:
                self.log(f"ring {ring.number}: {len(todo)} host{'s' * (len(todo) != 1)}")
            await asyncio.gather(
                *(
                    self._run_host(ring, name, remote_slots if host.login else local_slots)
                    for name, host in todo.items()
                )
            )
            progress = self.progress(ring)
            if not progress.reaches(progress.done, ring.success):
                self._stop(
                    f"ring {ring.number}: {progress.done} of {progress.hosts} hosts are done", ring.success
                )
            if self.stopped:
                return

    async def _run_host(self, ring: Ring, name: str, slots: asyncio.Semaphore) -> None:
        """Try a host until it is finished, or until the roll-out stops between two attempts."""
        policy, host = self.inventory.policy, ring.hosts[name]
        tries, started = 0, time.monotonic()
        while True:
            async with slots:
                if self.stopped:
                    return
                started = time.monotonic() if tries == 0 else started
                tries += 1
                self.running.add(name)
                try:
                    attempt = await self._try_install(host)
                finally:
                    self.running.discard(name)
                if not attempt.may_retry or tries == policy.tries:
                    self._finish(ring, name, attempt, tries, time.monotonic() - started)
                    return
            # Random, so that hosts that failed together do not try again together.
            factor = random.uniform(0.5, 1)  # noqa: S311
            wait_s = min(policy.backoff_s * 2 ** (tries - 1), MAX_BACKOFF_S) * factor
            self.log(f"{name}: {attempt.why}; trying again in {wait_s:.1f} s")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop_event.wait(), wait_s)

    def _finish(self, ring: Ring, name: str, attempt: _Attempt, tries: int, seconds: float) -> None:
        """Write the outcome of a host to the journal, and check the limit of its ring."""
        done, why, precision, _ = attempt
        board_key, now = ring.hosts[name].board_key, int(time.time())
        self.journal.record(name, HostOutcome(board_key, done, why, precision, tries, round(seconds, 3), now))
        if not done:
            self.failures.append(name)
            self.log(f"{name} failed: {why}")
        self._check_error_limit(ring)

    async def _try_install(self, host: Host) -> _Attempt:
        limit_s = self.inventory.policy.limit_s
        try:
            status = await asyncio.wait_for(self.install(host), limit_s)
            return _Attempt(True, _shorten(str(status["why"])), _shorten(str(status["precision"])), False)
        except (InputError, CheckError) as error:
            return _Attempt(False, _shorten(str(error)), None, is_transient(error))
        except asyncio.TimeoutError:
            why = f"was not finished after {limit_s:g} s; the board may still be installing"
            return _Attempt(False, why, None, False)
        except Exception as error:  # a fault with one board must not end the roll-out to all others
            return _Attempt(False, _shorten(describe_unforeseen(error)), None, False)

    def _check_error_limit(self, ring: Ring) -> None:
        progress = self.progress(ring)
        if progress.failed and not progress.reaches(progress.hosts - progress.failed, 1 - ring.error):
            self._stop(f"ring {ring.number}: {progress.failed} of {progress.hosts} hosts failed", ring.error)

    def _stop(self, why: str, limit: float) -> None:
        if self.stopped is None:
            self.stopped = f"{why}; the limit is {limit * 100:g} %"
            self._stop_event.set()

    def _has_failed(self, name: str) -> bool:
        return name in self.journal and not self.journal[name].done


def _shorten(text: str) -> str:
    """Return a text in one line, cut to the length that a line of the journal may have."""
    return " ".join(printable(text, MAX_REASON_CHARS).split())
