"""Update agent: asks a server for bundles, installs what is offered, and reports the result."""

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

RETRY_ERRORS = (ArmedError, NoHeartbeatError, BusyError)
"""Errors that say nothing against the bundle, so that the agent waits instead of reporting a failure."""
FIRST_RETRY_S = 10.0
"""Wait in seconds if the first poll fails; later the server's own interval is used."""


@dataclass
class UpdateAgent:
    """Polls a server for one board.

    Each step can be interrupted at any point and repeated: the next poll continues.

    Attributes:
        board: The board.
        server: The server.
        autopilot: Asked before a download and before the install.
    """

    board: DeviceBoard
    server: DdiClient
    autopilot: Autopilot
    # Id of a bundle that is downloaded but may not be installed yet: the server is informed only once.
    _downloaded: str | None = None

    def run(self) -> None:
        """Poll without end, at the interval that the server sets; continue if the server is unreachable."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                wait_s = self.poll_once()
            except ServerError as error:
                self.board.log(f"{error}; trying again in {wait_s:g} s")
            time.sleep(wait_s)

    def poll_once(self, log_idle: bool = False) -> float:
        """Poll, do what the server asks for, and return the seconds until the next poll.

        Args:
            log_idle: Also log that there is nothing to do.

        Raises:
            ServerError: The server cannot be reached, or its answer is invalid.
        """
        poll = self.server.poll()
        if poll.config_data:
            self.server.send_attributes(poll.config_data, self._attributes())
        if poll.cancel:
            self.server.confirm_cancel(poll.cancel)
            if log_idle:
                self.board.log("the server has cancelled its offer: nothing to do")
        elif poll.deployment:
            self._deploy(self.server.read_deployment(poll.deployment), log_idle)
        elif log_idle:
            self.board.log("the server offers nothing: nothing to do")
        return poll.sleep_s

    def _deploy(self, deployment: Deployment, log_idle: bool = False) -> None:
        """Download and install a deployment, as far as the server and the autopilot allow it now."""
        is_waiting = not deployment.may_install and deployment.id == self._downloaded
        if not deployment.may_download or is_waiting:
            if log_idle:
                step = "install" if is_waiting else "download"
                self.board.log(f"the server offers {deployment.name}, but does not allow the {step} yet")
            return  # the server offers it again at the next poll
        path = self._download(deployment)
        if path is None:
            return
        try:
            state = install(self.board, path, self.autopilot)
        except RETRY_ERRORS as error:
            self._report_waiting(deployment, error)
            return
        except (CheckError, InputError) as error:
            path.unlink(missing_ok=True)
            self.board.log(str(error))
            self.server.send_feedback(
                deployment.feedback_url, deployment.id, "closed", "failure", [str(error)]
            )
            return
        why = state.current_slot.why if state.current_slot else ""
        self.server.send_feedback(deployment.feedback_url, deployment.id, "closed", "success", [why])
        # Removed only now: if the feedback fails, the next poll installs the same file again, which returns
        # at once, and reports again.
        path.unlink(missing_ok=True)

    def _download(self, deployment: Deployment) -> Path | None:
        """Return the downloaded bundle if it may be installed now; else report why not, and return None."""
        try:
            self.autopilot.check_disarmed()
            self._report_proceeding(deployment, "downloading")
            path = self._download_path(deployment)
            self.server.download(deployment, path)
            if not deployment.may_install:
                self.board.log(f"{deployment.name} is downloaded; the server does not allow the install yet")
                self.server.send_feedback(
                    deployment.feedback_url, deployment.id, "downloaded", "none", ["not installed yet"]
                )
                self._downloaded = deployment.id
                return None
            self._report_proceeding(deployment, "installing")
        except ServerError:
            raise
        except (CheckError, InputError) as error:
            self._report_waiting(deployment, error)
            return None
        return path

    def _report_proceeding(self, deployment: Deployment, detail: str) -> None:
        self.server.send_feedback(deployment.feedback_url, deployment.id, "proceeding", "none", [detail])

    def _report_waiting(self, deployment: Deployment, why: Exception) -> None:
        """Log and report why the deployment waits for the next poll: armed, busy, or no disk space."""
        self.board.log(f"waiting: {why}")
        self._report_proceeding(deployment, f"waiting: {why}")

    def _download_path(self, deployment: Deployment) -> Path:
        """Return the file to download to, and remove the downloads of other deployments."""
        folder = self.board.root / "arrived"
        path = folder / f"{deployment.id}.swu"
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other != path:
                    other.unlink()
        return path

    def _attributes(self) -> dict[str, str]:
        """Return the attributes by which gooseBit selects software for a device."""
        slot = self.board.read_state().current_slot
        return {
            "hw_boardname": "default",
            "hw_revision": self.board.facts.board or ANY_BOARD,
            "sw_version": f"{slot.counter}.0.0" if slot else "0.0.0",
        }
