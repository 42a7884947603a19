from __future__ import annotations

import base64
import os
import socket
import threading

import pytest

from edge.core.errors import InputError
from edge.sources.factory import open_source
from edge.sources.public_name import CREDENTIALS_VARIABLE
from edge.sources.rtsp import OPTIONS_VARIABLE


def test_options_for_streams_do_not_remain_for_files() -> None:
    with pytest.raises(InputError, match="gives no video"):
        open_source("rtsp://127.0.0.1:1/x")
    assert OPTIONS_VARIABLE not in os.environ


def test_camera_gets_the_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[str] = []

    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            while data := client.recv(4096).decode():
                received.append(data)
                sequence = data.partition("CSeq: ")[2].partition("\r")[0]
                head = f"RTSP/1.0 401 Unauthorized\r\nCSeq: {sequence}\r\n"
                client.sendall(f'{head}WWW-Authenticate: Basic realm="x"\r\n\r\n'.encode())

    monkeypatch.setenv(CREDENTIALS_VARIABLE, "me:p@ss w:rd/%")
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        address = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(InputError, match=f"^{address} gives no video"):
            open_source(address)
        thread.join(10)
    assert base64.b64encode(b"me:p@ss w:rd/%").decode() in "".join(received)
