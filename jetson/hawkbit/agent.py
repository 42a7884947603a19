"""Update agent: asks a server for bundles, installs what is offered, and reports the result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import CheckError, InputError
from edge.core.foreign_text import printable
from jetson.bundle.archive import ANY_BOARD, open_bundle, read_bundle
from jetson.device.arming_interlock import ArmedError, Autopilot, NoHeartbeatError
from jetson.device.board import BusyError, DeviceBoard
from jetson.device.install import install
from jetson.hawkbit.ddi_client import DdiClient, Deployment
from jetson.hawkbit.http_requests import ServerError
from jetson.hawkbit.report_log import DOWNLOADED, WAITING, FinishedState, ReportLog

RETRY_ERRORS = (ArmedError, NoHeartbeatError, BusyError)
"""Errors that say nothing against the bundle, so that the agent waits instead of reporting a failure."""
FIRST_RETRY_S = 10.0
"""Wait in seconds if the first poll fails; later the server's own interval is used."""
REPORTS_FILE = "reports.json"
MAX_DETAIL_CHARS = 500
"""Longest reason that is reported; hawkBit accepts 512 characters."""


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

    @cached_property
    def _reports(self) -> ReportLog:
        return ReportLog(self.board.root / REPORTS_FILE)

    def run(self) -> None:
        """Poll without end, at the interval that the server sets; no error of a poll ends it."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                wait_s = self.poll_once()
            except (InputError, CheckError) as error:
                self.board.log(f"{error}; trying again in {wait_s:g} s")
            except Exception as error:  # a drone in the field has nobody who would start the agent again
                self.board.log(f"unexpected {type(error).__name__}: {error}; trying again in {wait_s:g} s")
            time.sleep(wait_s)

    def poll_once(self, log_idle: bool = False) -> float:
        """Poll, do what the server asks for, and return the seconds until the next poll.

        Args:
            log_idle: Also log that there is nothing to do.

        Raises:
            ServerError: The server cannot be reached, or its answer is invalid.
        """
        poll = self.server.poll()
        if poll.confirmation and (action_id := self.server.confirm(poll.confirmation)):
            self.board.log(f"confirmed the deployment {action_id} to the server")
            poll = self.server.poll()  # now it is offered
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
        reports = self._reports.of(deployment.id)
        if reports.verdict != "none":  # reached before, but the server did not accept it
            self._send_verdict(deployment, reports.verdict, reports.detail)
            return
        is_waiting = not deployment.may_install and DOWNLOADED in reports.steps
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
            self.board.log(str(error))
            self._finish(deployment, path, "failure", str(error))
            return
        why = state.current_slot.why if state.current_slot else ""
        self._finish(deployment, path, "success", why)

    def _download(self, deployment: Deployment) -> Path | None:
        """Return the downloaded bundle if it may be installed now; else report why not, and return None."""
        try:
            self.autopilot.check_disarmed()
            self._report(deployment, "proceeding", "downloading")
            path = self._download_path(deployment)
            if self.server.download(deployment, path) and not _is_complete(path):
                self.board.log(f"what is left of an earlier download of {deployment.name} is damaged: again")
                path.unlink(missing_ok=True)
                self.server.download(deployment, path)
            if not deployment.may_install:
                self.board.log(f"{deployment.name} is downloaded; the server does not allow the install yet")
                self._report(deployment, "downloaded", DOWNLOADED)
                return None
            self._report(deployment, "proceeding", "installing")
        except ServerError:
            raise
        except (CheckError, InputError) as error:
            self._report_waiting(deployment, error)
            return None
        return path

    def _finish(self, deployment: Deployment, path: Path, verdict: FinishedState, detail: str) -> None:
        """Record the verdict, remove the download, and report the verdict."""
        self._reports.set_verdict(deployment.id, verdict, detail)
        path.unlink(missing_ok=True)
        self._send_verdict(deployment, verdict, detail)

    def _send_verdict(self, deployment: Deployment, verdict: FinishedState, detail: str) -> None:
        """Report the verdict, and forget it once the server has accepted it."""
        details = [printable(detail, MAX_DETAIL_CHARS)]
        self.server.send_feedback(deployment.feedback_url, deployment.id, "closed", verdict, details)
        self._reports.clear()

    def _report(self, deployment: Deployment, execution: str, detail: str) -> None:
        """Report a step once. A server that rejects the report, as when it has too many, stops nothing."""
        if not self._reports.is_new(deployment.id, detail):
            return
        details = [printable(detail, MAX_DETAIL_CHARS)]
        try:
            self.server.send_feedback(deployment.feedback_url, deployment.id, execution, "none", details)
        except ServerError as error:
            self.board.log(f"{error}; going on without this report: {detail}")
            if error.status is None:
                return  # not reached: it is reported at the next poll
        self._reports.add(deployment.id, detail)

    def _report_waiting(self, deployment: Deployment, why: Exception) -> None:
        """Log and report why the deployment waits for the next poll: armed, busy, or no disk space."""
        self.board.log(f"{WAITING}{why}")
        self._report(deployment, "proceeding", f"{WAITING}{why}")

    def _download_path(self, deployment: Deployment) -> Path:
        """Return the file to download to, and remove the downloads of other deployments."""
        folder = self.board.root / "arrived"
        path = folder / f"{deployment.id}.swu"
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for other in folder.iterdir():
                if other != path or not other.is_file():
                    self.board.disk.remove(other)
        return path

    def _attributes(self) -> dict[str, str]:
        """Return the attributes by which gooseBit selects software for a device."""
        slot = self.board.read_state().current_slot
        return {
            "hw_boardname": "default",
            "hw_revision": self.board.facts.board or ANY_BOARD,
            "sw_version": f"{slot.counter}.0.0" if slot else "0.0.0",
        }


def _is_complete(path: Path) -> bool:
    """Return whether each byte of a downloaded bundle is right; who signed it is for the install to check."""
    try:
        with open_bundle(path) as file:
            read_bundle(file, path.name)
    except (CheckError, InputError):
        return False
    return True
