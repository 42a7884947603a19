from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from edge.sources.public_name import (
    CREDENTIALS_FILE_VARIABLE,
    CREDENTIALS_VARIABLE,
    has_password,
    public_name,
    with_credentials,
)
from tests.conftest import Outcome

SECRETS = [
    "rtsp://u:SECRET@cam/x",
    "rtsp://me@mail.com:SECRET@cam/x",
    "rtsp://u:SEC RET@cam/x",
    "rtsp://u:SEC@RET@cam/x",
    "rtsp://u/a:SECRET@cam/x",
    "rtsp://u?:SECRET@cam/x",
    "rtsp://u#:SECRET@cam/x",
    "rtsp://u:SEC/RET@RET/x@cam/y",
    "rtsp://:SECRET@cam/x",
    "rtsp://SECRET@cam/x",
    "rtsp://u:p%40SECRET@cam/x",
    "RTSP://u:SECRET@cam/x",
    " rtsp://u:SECRET@cam/x",
    "'rtsp://u:SECRET@cam/x'",
    "rtsp:/u:SECRET@cam/x",
    "rtsp:u:SECRET@cam",
    "rtsp://u:SECRET",
    "u:SECRET@cam/x",
    "rtsp://u:SECRET@[::1/x",
    "rtsp://cam/x?user=a&password=SECRET",
    "rtsp://cam/user=a_password=SECRET_channel=1.sdp",
    "rtsp://cam/x?token=SECRET",
    "rtsp://cam/x?channel=1&auth=SECRET",
    "rtsp://cam/x#SECRET",
    "rtsp://cam/x;psw=SECRET",
    "rtsps://cam:7441/SECRETabc01234567?enableSrtp",
    "cam/x?token=SECRET",
    "http://u:SECRET@cam/x.mjpg",
    "srt://cam:9000?passphrase=SECRET",
    "gst:rtspsrc location=rtsp://u:SECRET@cam/x ! decodebin",
    "GST:rtspsrc location=rtsp://u:SECRET@cam/x ! decodebin",
    "gst:rtspsrc location=rtsp://u:12 SECRET@cam/x ! decodebin",
    "gst:rtspsrc location='rtsp://u:SEC RET@cam/x' ! decodebin",
    "gst:rtspsrc location=rtsp://cam user-id=a user-pw=SECRET ! x",
    "gst:rtspsrc location=rtsp://cam user-id=a user-pw = SECRET ! x",
    "gst:rtspsrc location=rtsp://cam user-pw= SECRET ! x",
    'gst:rtspsrc user-pw="SEC RET" ! x',
    "gst:rtspsrc user-pw='SEC ! RET' ! x",
    'gst:rtspsrc user-pw="SECRET ! x',
    "gst:souphttpsrc location=http://cam user-pw=SECRET cookies=session=SECRET ! x",
    "gst:srtsrc uri=srt://cam:9000?passphrase=SECRET ! x",
]


@pytest.mark.parametrize("name", SECRETS)
def test_shown_name_holds_no_secret(name: str) -> None:
    shown = public_name(name)
    assert not any(part in shown for part in ("SEC", "RET"))
    if not name.startswith(("rtsp:/u", "rtsp:u", "rtsp://", "RTSP", "rtsps")):
        with pytest.raises(InputError) as error:
            open_source(name)
        assert not any(part in str(error.value) for part in ("SEC", "RET"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rtsp://a:b@host/x", "rtsp://host/x"),
        ("rtsp://host:554/cam/realmonitor?channel=1&subtype=0", None),
        ("rtsp://[fe80::1%eth0]:554/Streaming/Channels/101", None),
        ("gst:v4l2src device=/dev/video0 ! videoconvert", None),
        (
            "gst:rtspsrc location=rtsp://a:b@h/x latency=0 ! x",
            "gst:rtspsrc location=rtsp://h/x latency=0 ! x",
        ),
        ('gst:udpsrc port=5600 caps="application/x-rtp" ! x', "gst:udpsrc port=5600 *** ! x"),
        ("me@host/clip.mp4", None),
        ("12:00.avi", None),
        ("synthetic:7:96x96:3", None),
        ("v4l2:0:640x480@30", None),
    ],
)
def test_shown_name_tells_sources_apart(name: str, shown: str | None) -> None:
    assert public_name(name) == (shown or name)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("http://cam/video.mjpg", "multipartdemux"),
        ("https://host/live.m3u8", "uridecodebin"),
        ("udp://0.0.0.0:5600", "udpsrc"),
        ("rtp://0.0.0.0:5600", "udpsrc"),
        ("SRT://host:9000", "srtsrc"),
        ("rtmp://host/live", "uridecodebin"),
        ("file:///clip.mp4", "the path alone"),
    ],
)
def test_address_that_another_source_reads_is_pointed_to_it(name: str, reader: str) -> None:
    with pytest.raises(InputError, match=f"is not read directly; give .*{reader}"):
        open_source(name)


def test_credentials_come_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "rtsp://host:554/x"
    assert with_credentials(url) == url
    (tmp_path / "camera").write_text("me:p@ss\n")
    monkeypatch.setenv(CREDENTIALS_FILE_VARIABLE, str(tmp_path / "camera"))
    assert with_credentials(url) == "rtsp://me:p%40ss@host:554/x"
    assert with_credentials("rtsp://a:b@host/x") == "rtsp://a:b@host/x"
    monkeypatch.setenv(CREDENTIALS_VARIABLE, "SECRET")
    with pytest.raises(InputError, match="expected USER:PASSWORD in one line") as error:
        with_credentials(url)
    assert "SECRET" not in str(error.value)


def test_credentials_from_a_pipe_serve_for_each_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(pipe := tmp_path / "camera")
    monkeypatch.setenv(CREDENTIALS_FILE_VARIABLE, str(pipe))
    writer = threading.Thread(target=pipe.write_text, args=("me:p@ss\n",), daemon=True)
    writer.start()
    assert with_credentials("rtsp://host/x") == "rtsp://me:p%40ss@host/x"
    writer.join()
    assert with_credentials("rtsp://host/x") == "rtsp://me:p%40ss@host/x", "it is opened again after a fault"


def test_password_on_the_command_line_is_warned_about(
    command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    warning = "other users can see the password"
    outcome = command("run", "rtsp://me:SECRET@127.0.0.1:1/x")
    assert warning in outcome.err
    (tmp_path / "run.toml").write_text('source = "rtsp://me:SECRET@127.0.0.1:1/x"\n')
    from_file = command("run", "--config", tmp_path / "run.toml")
    monkeypatch.setenv("AEROGAZE_SOURCE", "rtsp://me:SECRET@127.0.0.1:1/x")
    from_environment = command("run")
    for quiet in (from_file, from_environment):
        assert warning not in quiet.err
        assert "rtsp://127.0.0.1:1/x gives no video" in quiet.err
    assert "SECRET" not in outcome.err + from_file.err + from_environment.err
    assert not has_password("rtsp://127.0.0.1:1/x")


@pytest.mark.parametrize(
    "name",
    ["rtsp://u:p/w@h/x", "rtsp://u:p@h", "rtsp://u:a/b@c@h:554/x", "rtsp://u:p?w@h", "https://u:p#w@h/x"],
)
def test_password_with_any_character_is_seen_and_hidden(name: str) -> None:
    assert has_password(name)
    assert not any(
        part in public_name(name).partition("://")[2] for part in ("p/w", "u:", "a/b", "p?w", "p#w")
    )


@pytest.mark.parametrize(
    "camera", ["/dev/video0:640x480@30", "v4l2:0:640x480@30", "csi:0:1280x720@30", "CSI:0:1280x720@30"]
)
def test_mode_of_a_camera_is_not_taken_for_a_password(camera: str) -> None:
    assert not has_password(camera)
    assert public_name(camera) == camera


@pytest.mark.parametrize(
    "arguments", [["rtsp://u:SEC", "RET@cam/x"], ["gst:rtspsrc", "user-pw=SECRET", "!", "x"]]
)
def test_source_without_quotation_marks_shows_no_secret(
    command: Callable[..., Outcome], arguments: list[str]
) -> None:
    outcome = command("run", *arguments)
    assert outcome.code == 2
    assert "put the source into quotation marks" in outcome.err
    assert not any(part in outcome.err for part in ("SEC", "RET"))
