"""The board's own way to new releases: it asks a server, installs what it offers, and says how it went."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import CheckError, InputError
from jetson.bundle.archive import ANY_BOARD
from jetson.device.arming_interlock import ArmedError, Autopilot, NoHeartbeatError
from jetson.device.board import BusyError, DeviceBoard
from jetson.device.install import install
from jetson.hawkbit.ddi_client import DdiClient, Deployment, ServerError

NOT_NOW = (ArmedError, NoHeartbeatError, BusyError)
"""Says nothing against the bundle."""


@dataclass
class UpdateAgent:
    """Polls for one board. What it does is safe to be cut off anywhere, and to be done twice."""

    board: DeviceBoard
    server: DdiClient
    autopilot: Autopilot
    _downloaded: str | None = None
    """The number of what is there and may not be installed yet: the server was told, and is not again."""

    def run(self) -> None:
        """Poll for ever, as often as the server says; a server that is away is asked again."""
        wait = 10.0
        while True:
            try:
                wait = self.poll_once()
            except ServerError as error:
                self.board.log(f"{error}; asking again in {wait:g} s")
            time.sleep(wait)

    def poll_once(self) -> float:
        """Poll once, and do what there is to do; return after how many seconds to ask again.

        Raises:
            ServerError: the server cannot be reached, or answers something odd.
        """
        poll = self.server.poll()
        if poll.config_data:
            self.server.send_attributes(poll.config_data, self._attributes())
        if poll.cancel:
            self.server.cancel(poll.cancel)
        elif poll.deployment:
            self._deploy(self.server.deployment(poll.deployment))
        return poll.sleep_s

    def _deploy(self, offered: Deployment) -> None:
        if not offered.download or (not offered.install and offered.id == self._downloaded):
            return  # each poll asks again
        try:
            self.autopilot.check_disarmed()
            self._proceed(offered, "downloading")
            place = self._arrival(offered)
            self.server.download(offered, place)
            if not offered.install:
                self.board.log(f"{offered.name} is here; the server does not let it be installed yet")
                self.server.send_feedback(
                    offered.feedback, offered.id, "downloaded", "none", ["not installed yet"]
                )
                self._downloaded = offered.id
                return
            self._proceed(offered, "installing")
        except ServerError:
            raise
        except (CheckError, InputError) as error:
            self._wait(offered, error)
            return
        try:
            state = install(self.board, place, self.autopilot)
        except NOT_NOW as error:
            self._wait(offered, error)
            return
        except (CheckError, InputError) as error:
            place.unlink(missing_ok=True)
            self.board.log(str(error))
            self.server.send_feedback(offered.feedback, offered.id, "closed", "failure", [str(error)])
            return
        why = state.current_slot.why if state.current_slot else ""
        self.server.send_feedback(offered.feedback, offered.id, "closed", "success", [why])
        place.unlink(missing_ok=True)  # only now: told or not, the next poll finds it flown

    def _proceed(self, offered: Deployment, detail: str) -> None:
        self.server.send_feedback(offered.feedback, offered.id, "proceeding", "none", [detail])

    def _wait(self, offered: Deployment, why: Exception) -> None:
        """Leave it for the next poll, which offers it again: armed, busy, or no room for the download."""
        self.board.log(f"waiting: {why}")
        self._proceed(offered, f"waiting: {why}")

    def _arrival(self, offered: Deployment) -> Path:
        """Return where to download to; what was begun of others is removed."""
        folder = self.board.root / "arrived"
        place = folder / f"{offered.id}.swu"
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other != place:
                    other.unlink()
        return place

    def _attributes(self) -> dict[str, str]:
        """What gooseBit knows a device by: a board that does not say what it is, is any."""
        flown = self.board.read_state().current_slot
        return {
            "hw_boardname": "default",
            "hw_revision": self.board.facts.board or ANY_BOARD,
            "sw_version": f"{flown.counter}.0.0" if flown else "0.0.0",
        }
