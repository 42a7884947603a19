"""MAVLink message signing, against pymavlink's own signing on the ground station's side."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.core.errors import InputError
from edge.core.run_status import RunInfo, Status
from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.result import identity
from edge.sinks.mavlink.camera import MavlinkSettings, MavlinkSink
from edge.sinks.mavlink.link import SharedLinks
from edge.sinks.mavlink.signing import STORE_INTERVAL_S, TICKS_PER_S, MessageSigner, TimeStampFile, read_key
from tests.support.ground_station import CAMERA, VEHICLE, GroundStation, common
from tests.support.mavlink_flight import flying, region, result
from tests.support.waiting import wait_until

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
NOW = int((time.time() - 1_420_070_400) * TICKS_PER_S)
SETPOINT = "GIMBAL_MANAGER_SET_PITCHYAW"
STOP = common.MAV_CMD_CAMERA_STOP_TRACKING


def sign(ground: GroundStation, key: bytes, time_stamp: int = NOW) -> None:
    """Let a ground station sign with a key, and refuse what is not signed with it."""
    signing = ground.mav.signing
    signing.secret_key, signing.timestamp, signing.sign_outgoing = key, time_stamp, True


def stop_command(key: bytes | None, time_stamp: int = NOW, link_id: int = 9) -> bytes:
    """Return a packet that commands the end of tracking."""
    mav = common.MAVLink(None, 255, 190)
    if key is not None:
        mav.signing.secret_key, mav.signing.timestamp, mav.signing.sign_outgoing = key, time_stamp, True
        mav.signing.link_id = link_id
    return bytes(common.MAVLink_command_long_message(VEHICLE, CAMERA, STOP, 0, *[0] * 7).pack(mav))


def parse(packet: bytes) -> Any:
    """Return a packet as a received message."""
    (message,) = common.MAVLink(None).parse_buffer(packet)
    return message


def test_camera_and_pymavlink_accept_each_other(ground: GroundStation) -> None:
    sign(ground, KEY)
    with flying(ground, key=KEY) as (sink, status, _):
        sink.write(result(region()))
        ground.wait("CAMERA_TRACKING_IMAGE_STATUS", tracking_status=1)
        for _ in range(3):
            assert ground.command(common.MAV_CMD_CAMERA_TRACK_POINT, 0.75, 0.5) == 0
        assert ground.mav.signing.badsig_count == 0
        assert status.snapshot().faults == {}


@pytest.mark.parametrize("key", [None, OTHER_KEY])
def test_unsigned_and_wrongly_signed_commands_move_nothing(ground: GroundStation, key: bytes | None) -> None:
    sign(ground, KEY)
    with flying(ground, CameraGeometry(90), key=KEY) as (sink, status, clock):
        ground.write(stop_command(key))
        assert wait_until(lambda: status.snapshot().faults == {"mavlink-signing": 1})
        sink.write(result(region()))
        ground.wait(SETPOINT)
        takeover = common.MAVLink_gimbal_manager_status_message(0, 0, 0, 255, 190, 0, 0)
        ground.write(bytes(takeover.pack(common.MAVLink(None, VEHICLE, 1))))
        clock.advance(1)
        ground.flush()
        sink.write(result(region()))
        ground.wait(SETPOINT)  # neither the tracking nor the gimbal changed hands


def test_unsigned_status_of_a_telemetry_radio_is_no_fault(ground: GroundStation) -> None:
    sign(ground, KEY)
    with flying(ground, key=KEY) as (_, status, _):
        radio = common.MAVLink_radio_status_message(200, 200, 100, 40, 40, 0, 0)
        ground.write(bytes(radio.pack(common.MAVLink(None, 51, 68))))
        assert ground.command(STOP) == 0
        assert status.snapshot().faults == {}


def test_forged_time_stamp_does_not_lock_out_the_pilot(ground: GroundStation) -> None:
    sign(ground, KEY)
    with flying(ground, key=KEY):
        forged = bytearray(stop_command(OTHER_KEY, NOW + 10**12, link_id=0))
        forged[5:7] = VEHICLE, 190  # the address of the pilot's station
        ground.write(bytes(forged))
        assert ground.command(STOP) == 0


def test_repeated_and_old_messages_are_ignored() -> None:
    signer = MessageSigner(KEY, lambda: 1_420_070_400 + NOW / TICKS_PER_S)
    parser = common.MAVLink(None)

    def accepts(packet: bytes) -> bool:
        (message,) = parser.parse_buffer(packet)
        return signer.verify(message)

    minute = 60 * TICKS_PER_S
    assert not accepts(stop_command(KEY, NOW - 2 * minute))
    assert accepts(stop_command(KEY, NOW - minute // 2))
    assert not accepts(stop_command(KEY, NOW - minute // 2)), "the same message again"
    assert accepts(stop_command(KEY, NOW))
    assert not accepts(stop_command(KEY, NOW - 1)), "older than the last one"
    assert accepts(stop_command(KEY, NOW - 1, link_id=3)), "another link has its own order"
    damaged = bytearray(stop_command(KEY, NOW + 1))
    damaged[-1] ^= 1
    assert not accepts(bytes(damaged))


def test_own_time_stamps_follow_the_newest_valid_message() -> None:
    signer, encoder = MessageSigner(KEY, lambda: 1_420_070_400.0), common.MAVLink(None)
    (message,) = common.MAVLink(None).parse_buffer(stop_command(KEY, NOW))
    assert signer.verify(message), "the own clock was never set"
    signer.prepare(encoder)
    assert encoder.signing.timestamp >= NOW


def test_key_is_read_as_bytes_and_as_hexadecimal_digits(tmp_path: Path) -> None:
    for content in (KEY, KEY.hex().encode() + b"\n", KEY.hex().upper().encode()):
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(0o600)
        assert read_key(path) == KEY


@pytest.mark.parametrize(
    ("content", "rights", "message"),
    [
        (KEY, 0o640, r"has the rights 0640; expected a key that only its owner may read: chmod 600"),
        (KEY, 0o604, "chmod 600"),
        (KEY[:31], 0o600, "holds 31 bytes; expected the 32 bytes"),
        (b"x" * 64, 0o600, "holds 64 bytes"),
        (b"", 0o600, "openssl rand -hex 32"),
        (b"0" * 5000, 0o600, "is larger than 4096 bytes"),
    ],
)
def test_file_that_holds_no_private_key_is_refused(
    tmp_path: Path, content: bytes, rights: int, message: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(rights)
    with pytest.raises(InputError, match=message):
        read_key(path)


def test_silent_pipe_and_missing_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.core.guarded_files.PIPE_TIMEOUT_S", 0.05)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "missing"):
        with pytest.raises(InputError, match="expected the 32 bytes"):
            read_key(tmp_path / name)


def test_recorded_message_is_refused_after_a_restart_also_after_a_kill(tmp_path: Path) -> None:
    file, now_s = TimeStampFile(tmp_path / "key.stamps"), 1_800_000_000.0
    slow_clock = lambda: now_s - 3600  # noqa: E731 (a board without a battery for its clock)
    stamp = int((now_s - 1_420_070_400) * TICKS_PER_S)
    recorded, later = parse(stop_command(KEY, stamp)), parse(stop_command(KEY, stamp + 1))
    first = MessageSigner(KEY, slow_clock, file)
    assert first.verify(recorded)
    first.store()
    killed = MessageSigner(KEY, slow_clock, file)
    assert not killed.verify(recorded)
    assert not killed.verify(later), "it may have been used after the last write"
    fresh = stop_command(KEY, stamp + round((STORE_INTERVAL_S + 1) * TICKS_PER_S))
    assert killed.verify(parse(fresh))
    first.store(at_end=True)
    restarted = MessageSigner(KEY, slow_clock, file)
    assert not restarted.verify(recorded)
    assert restarted.verify(later)
    encoder = common.MAVLink(None, 1, 1)
    restarted.prepare(encoder)
    assert encoder.signing.timestamp > stamp


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"newest": 1}',
        '{"newest": 1, "senders": {"x": 2}}',
        '{"newest": Infinity, "senders": {}}',
        "[" * 100_000,
    ],
)
def test_damaged_time_stamps_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "key.stamps").write_text(text)
    with pytest.raises(InputError, match=r"holds no time stamps of MAVLink signing \(\w+\); remove it"):
        MessageSigner(KEY, file=TimeStampFile(tmp_path / "key.stamps"))


def test_camera_with_damaged_time_stamps_opens_no_line(tmp_path: Path) -> None:
    (tmp_path / "key.stamps").write_text("[]")
    settings = MavlinkSettings(VEHICLE, key=KEY, stamps=tmp_path / "key.stamps")
    # The lines cannot be opened: an attempt would fail with another message.
    for links in (["/dev/no-such-line"], SharedLinks(["/dev/no-such-line"])):
        with pytest.raises(InputError, match="holds no time stamps"):
            MavlinkSink(links, Status(RunInfo("", "", "", "")), identity, settings)


def test_time_stamps_that_cannot_be_kept_are_a_fault(ground: GroundStation, tmp_path: Path) -> None:
    status, settings = Status(RunInfo("", "", "", "")), MavlinkSettings(VEHICLE, key=KEY)
    links = [f"udpout:127.0.0.1:{ground.port}"]
    kept = MavlinkSink(links, status, identity, replace(settings, stamps=tmp_path / "key.stamps"))
    kept.discard()
    assert status.snapshot().faults == {}
    assert (tmp_path / "key.stamps").exists()
    lost = MavlinkSink(links, status, identity, replace(settings, stamps=Path("/proc/key.stamps")))
    lost.discard()
    assert "not kept over a restart" in status.snapshot().open_faults["mavlink-stamps"]
