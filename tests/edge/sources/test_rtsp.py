from __future__ import annotations

import os

import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from edge.sources.rtsp import OPTIONS_VARIABLE, hide_passwords


def test_options_for_streams_do_not_remain_for_files() -> None:
    with pytest.raises(InputError, match="gives no video"):
        open_source("rtsp://127.0.0.1:1/x")
    assert OPTIONS_VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://a:b@host/x", "rtsp://a:***@host/x"),
        ("rtsp://host:554/x", "rtsp://host:554/x"),
        ("rtsp://[::1]:554/x", "rtsp://[::1]:554/x"),
        ("rtsp://a:p#ss@host:554/x", "rtsp://a:***@host:554/x"),
        ("rtsp://a:p/s?s@host/x", "rtsp://a:***@host/x"),
        ("rtsp://a:p@ss@host/x", "rtsp://a:***@host/x"),
        ("rtsp://h/user=a&password=b&channel=1", "rtsp://h/user=a&password=***&channel=1"),
        ("rtsp://h/user=a_password=b_channel=1.sdp", "rtsp://h/user=a_password=***"),
        ("rtsp://h/x?usr=a&pwd=b", "rtsp://h/x?usr=a&pwd=***"),
        (
            "gst:rtspsrc location=rtsp://a:b@h/x user-pw=c ! fakesink",
            "gst:rtspsrc location=rtsp://a:***@h/x user-pw=*** ! fakesink",
        ),
        ("rtsp://a:b@[::1/x", "rtsp://a:***@[::1/x"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert hide_passwords(url) == shown
