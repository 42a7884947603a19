"""Check of a bundle's manifest against the board: board, versions, release counter and expiry date."""

from __future__ import annotations

from datetime import date, timedelta

from edge.core.errors import CheckError
from edge.hardware.board import BoardFacts
from jetson.bundle.manifest import BundleManifest, version_key, version_matches
from jetson.device.slot_state import BoardState

SECONDS_PER_DAY = 86400


def check_compatibility(
    manifest: BundleManifest, facts: BoardFacts, state: BoardState, now: float, runtime: str
) -> None:
    """Check that the board may install a bundle.

    A drone's clock may have fallen back to 1970. Therefore the latest time that the board has ever seen
    counts: a bundle that was once known to be expired stays expired.

    Args:
        manifest: Manifest of the bundle.
        facts: Board and versions of JetPack and TensorRT.
        state: State of the board.
        now: Time of the board's clock, in seconds since 1970.
        runtime: Version of aerogaze on the board.

    Raises:
        CheckError: A condition is not met. The message has the actual and the expected value.
    """
    _check_board(manifest, facts)
    if version_key(runtime) < version_key(manifest.runtime):
        raise CheckError(
            f"the bundle needs aerogaze {manifest.runtime}, the board has {runtime}: update it first"
        )
    _check_counter(manifest, state)
    latest = max(now, state.seen_at)
    if manifest.expires and latest // SECONDS_PER_DAY > _days_since_1970(manifest.expires):
        if now // SECONDS_PER_DAY > _days_since_1970(manifest.expires):
            raise CheckError(f"the bundle expired after {manifest.expires} (UTC): bundle the release again")
        raise CheckError(
            f"the bundle expired after {manifest.expires} (UTC): the board's clock once stood at "
            f"{day_text(state.seen_at)}, which it remembers, and stands at {day_text(now)} now: bundle the "
            "release again, or if the remembered day is wrong, set the clock and run as root, on the board: "
            "aerogaze device reset-clock"
        )


def _check_board(manifest: BundleManifest, facts: BoardFacts) -> None:
    compatible = manifest.compatible
    for label, allowed, actual, exact in (
        ("board", compatible.boards, facts.board, True),
        ("compute capability", compatible.compute_capability, facts.compute_capability, False),
        ("JetPack", compatible.jetpack, facts.jetpack, False),
        ("TensorRT", compatible.tensorrt, facts.tensorrt, False),
    ):
        matches = actual and any(
            actual == value if exact else version_matches(actual, value) for value in allowed
        )
        if allowed and not matches:
            raise CheckError(
                f"the bundle is for {label} {', '.join(allowed)}; here is "
                f"{actual or facts.model or 'no known one'}: use a bundle made for this board"
            )


def _check_counter(manifest: BundleManifest, state: BoardState) -> None:
    if manifest.counter >= state.counter or (manifest.over is not None and state.counter <= manifest.over):
        return
    raise CheckError(
        f"the bundle has counter {manifest.counter}, this board has flown {state.counter}: a lower counter "
        "is rejected; bundle it with a higher --counter, or with --over"
    )


def day_text(seconds: float) -> str:
    """Return the day (UTC) of a time in seconds since 1970."""
    try:
        return (date(1970, 1, 1) + timedelta(days=seconds // SECONDS_PER_DAY)).isoformat()
    except OverflowError:
        return "a day after the year 9999" if seconds > 0 else "a day before the year 1"


def _days_since_1970(day: str) -> int:
    # Compared as numbers of days: the last date that Python knows has no next day.
    return (date.fromisoformat(day) - date(1970, 1, 1)).days
