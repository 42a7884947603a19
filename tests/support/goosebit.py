"""A real gooseBit, the update server that the agent is tested with."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_tcp_port

PYTHON = Path(os.environ.get("GOOSEBIT_PYTHON", "/nonexistent"))
"""A Python that has gooseBit. It is another one, because gooseBit needs certain versions of many packages."""
NO_GOOSEBIT = (
    "no gooseBit here (python3 -m venv goosebit; goosebit/bin/pip install goosebit==0.2.12; "
    "export GOOSEBIT_PYTHON=$PWD/goosebit/bin/python)"
)
"""Reason of tests that are skipped without it."""
OPENSSL = Path("/usr/bin/openssl")
START_S = 120.0
"""Longest time until the server answers."""
SERVE = """
import asyncio, sys, uvicorn
from tortoise import Tortoise
from goosebit import app, db
from goosebit.settings import PWD_CXT
from goosebit.users import create_initial_user
async def prepare():
    await db.init()
    await Tortoise.generate_schemas()
    await create_initial_user("us", PWD_CXT.hash("secret"))
    await Tortoise.close_connections()
asyncio.run(prepare())
tls = dict(zip(("ssl_certfile", "ssl_keyfile"), sys.argv[3:]))
uvicorn.run(app, host=sys.argv[1], port=int(sys.argv[2]), **tls)
"""


@dataclass
class GooseBit:
    """A running gooseBit, and the actions of its user.

    Attributes:
        url: Its address.
        certificate: File with its certificate, which signs itself; None without HTTPS.
        token: Token of its user, from `log_in`.
    """

    url: str
    certificate: Path | None = None
    token: str = ""

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, kind: str = "application/json"
    ) -> Any:
        """Send a request of the user, and return the JSON of the answer."""
        headers = {"Content-Type": kind, **({"Authorization": f"bearer {self.token}"} if self.token else {})}
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310
        tls = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        with urllib.request.urlopen(request, timeout=30, context=tls) as answer:  # noqa: S310
            return json.loads(answer.read())

    def log_in(self) -> bool:
        """Get a token for the user; return False if the server does not answer yet."""
        login = b"username=us&password=secret"
        try:
            answer = self.request("/login", "POST", login, "application/x-www-form-urlencoded")
        except OSError:
            return False
        self.token = answer["access_token"]
        return True

    def roll_out(self, bundle: Path) -> None:
        """Offer a bundle to all devices. The name of its folder must be new to the server."""
        boundary = b"--edge\r\n"
        name = f"{bundle.parent.name}-{bundle.name}"
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        body = boundary + head + bundle.read_bytes() + b"\r\n--edge--\r\n"
        software_id = self.request("/api/v1/software", "PUT", body, "multipart/form-data; boundary=edge")[
            "id"
        ]
        rollout = {"name": f"r{software_id}", "feed": "default", "software_id": software_id}
        self.request("/api/v1/rollouts", "PUT", json.dumps(rollout).encode())

    def device(self, name: str) -> dict[str, Any]:
        """Return what the server knows of a device."""
        return next(row for row in self.request("/api/v1/devices")["devices"] if row["id"] == name)


def _make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Return the files of a new certificate for an address, and of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        str(OPENSSL), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", "/CN=goosebit", "-addext", f"subjectAltName=IP:{host}", "-keyout", str(key),
        "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def running_goosebit(folder: Path, host: str = "127.0.0.1", uses_tls: bool = False) -> Iterator[GooseBit]:
    """Run a gooseBit with an empty database. The test is skipped where there is none.

    Args:
        folder: An empty folder.
        host: Address of this machine.
        uses_tls: Whether it speaks HTTPS, with a certificate that it signs itself.
    """
    if not PYTHON.exists():
        pytest.skip(NO_GOOSEBIT)
    if uses_tls and not OPENSSL.exists():
        pytest.skip(f"no {OPENSSL} here, which makes a certificate (apt-get install openssl)")
    port = free_tcp_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GOOSEBIT_DB_URI": f"sqlite://{folder}/db.sqlite3", "GOOSEBIT_ARTIFACTS_DIR": str(folder)}
    with (folder / "log").open("w") as log:
        tls = _make_certificate(folder, host) if uses_tls else ()
        arguments = [str(PYTHON), "-c", SERVE, host, str(port), *map(str, tls)]
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log)
    goosebit = GooseBit(f"https://{host}:{port}", tls[0]) if tls else GooseBit(f"http://{host}:{port}")
    try:
        deadline_s = time.monotonic() + START_S
        while not goosebit.log_in():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline_s, (folder / "log").read_text()
            time.sleep(0.1)
        yield goosebit
    finally:
        process.kill()
        process.wait()
