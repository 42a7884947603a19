"""Whether a bundle may go onto this board, now: asked of its signed manifest alone."""

from __future__ import annotations

from datetime import date

from edge.core.errors import CheckError
from edge.hardware.board import BoardFacts
from jetson.bundle.manifest import BundleManifest, version_key, version_matches
from jetson.device.slot_state import BoardState

DAY_S = 86400


def check_compatibility(
    manifest: BundleManifest, facts: BoardFacts, state: BoardState, now: float, here: str
) -> None:
    """See that board, versions, counter and date are right.

    `here`: the board's version of aerogaze. `now`: seconds since 1970. A drone's clock may stand at 1970:
    the latest time that the board has known counts, so that a clock that is behind lets no bundle in that
    it had known to be expired.

    Raises:
        CheckError: one is not; what was found and what the bundle asks for is said.
    """
    _check_board(manifest, facts)
    if version_key(here) < version_key(manifest.runtime):
        raise CheckError(f"the bundle needs aerogaze {manifest.runtime}, here is {here}: update it first")
    _check_counter(manifest, state)
    known = max(now, state.seen_at)
    if manifest.expires and known // DAY_S > _days(manifest.expires):
        raise CheckError(f"the bundle expired after {manifest.expires} (UTC): bundle the release again")


def _check_board(manifest: BundleManifest, facts: BoardFacts) -> None:
    asked = manifest.compatible
    for what, wanted, found, exact in (
        ("board", asked.boards, facts.board, True),
        ("compute capability", asked.compute_capability, facts.compute_capability, False),
        ("JetPack", asked.jetpack, facts.jetpack, False),
        ("TensorRT", asked.tensorrt, facts.tensorrt, False),
    ):
        fits = [one for one in wanted if found and (found == one if exact else version_matches(found, one))]
        if wanted and not fits:
            raise CheckError(
                f"the bundle is for {what} {', '.join(wanted)}; here is "
                f"{found or facts.model or 'no known one'}: take a bundle made for this board"
            )


def _check_counter(manifest: BundleManifest, state: BoardState) -> None:
    if manifest.counter >= state.counter or (manifest.over is not None and state.counter <= manifest.over):
        return
    raise CheckError(
        f"the bundle has counter {manifest.counter}, this board has flown {state.counter}: releases do not "
        "go back; bundle it with a higher --counter, or with --over"
    )


def _days(day: str) -> int:
    """Return the days from 1970's first to this one: any day has a number, not any has a next day."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days
