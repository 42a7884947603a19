"""Bundles are read by SWUpdate, gooseBit and cpio, where these are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.core.errors import CheckError, InputError
from jetson.bundle.archive import read_bundle
from jetson.bundle.manifest import Compatibility
from jetson.signing.cms import CmsSigner, load_cms_signer
from tests.support import goosebit

SWUPDATE = shutil.which("swupdate")
CPIO = shutil.which("cpio")
ORIN = Compatibility(boards=("orin-nano", "orin-nx"))


@pytest.fixture(scope="module")
def cms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an RSA key and its certificate for emailProtection."""
    path = tmp_path_factory.mktemp("cms")
    private = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aerogaze")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (path / "key.pem").write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def signer(cms: Path) -> CmsSigner:
    return load_cms_signer(cms / "key.pem", cms / "cert.pem")


def is_accepted(bundle: Path, cms: Path) -> bool:
    words = [str(SWUPDATE), "-c", "-i", str(bundle), "-k", str(cms / "cert.pem"), "-H", "aerogaze:orin-nano"]
    null = subprocess.DEVNULL  # a remaining child process would keep a pipe open
    with tempfile.TemporaryDirectory(
        dir="/tmp"
    ) as sockets:  # SWUpdate creates sockets there: tests may run at the same time
        process = subprocess.Popen(
            words, env={**os.environ, "TMPDIR": sockets}, stdout=null, stderr=null, start_new_session=True
        )
        try:
            return process.wait(timeout=60) == 0
        finally:
            with suppress(ProcessLookupError):  # when it refuses an image, SWUpdate leaves a child process
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.skipif(SWUPDATE is None, reason="no swupdate on this machine (apt-get install swupdate)")
def test_swupdate_accepts_only_images_with_its_cms_signature(
    make_bundle: Callable[..., Path], signer: CmsSigner, cms: Path, bundle: Path, tmp_path: Path
) -> None:
    path = make_bundle(cms=signer, compatible=ORIN)
    assert is_accepted(path, cms)
    assert not is_accepted(bundle, cms), "SWUpdate of Debian rejects images without a CMS signature"
    (tmp_path / "spoilt.swu").write_bytes(path.read_bytes().replace(b"skd-64", b"skd-65", 1))
    assert not is_accepted(tmp_path / "spoilt.swu", cms)


def test_cms_signature_is_deterministic_and_protected(
    make_bundle: Callable[..., Path], signer: CmsSigner, tmp_path: Path
) -> None:
    path = make_bundle(cms=signer)
    data = path.read_bytes()
    assert data == make_bundle(cms=signer).read_bytes()
    with path.open("rb") as file:
        cms = read_bundle(file, "b").cms
    assert cms is not None
    at = data.index(cms) + len(cms) // 2
    spoilt = tmp_path / "b.swu"
    spoilt.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with spoilt.open("rb") as file, pytest.raises((InputError, CheckError)):
        read_bundle(file, "b")


@pytest.mark.skipif(CPIO is None, reason="no cpio on this machine (apt-get install cpio)")
def test_cpio_unpacks_the_bundle_and_confirms_its_checksums(
    bundle: Path, small_release: Path, tmp_path: Path
) -> None:
    with bundle.open("rb") as file:
        words = [str(CPIO), "-id", "--only-verify-crc"]
        done = subprocess.run(words, stdin=file, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "checksum error" not in done.stderr
        file.seek(0)
        subprocess.run([str(CPIO), "-id"], stdin=file, cwd=tmp_path, check=True, capture_output=True)
    for path in small_release.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


PARSE_WITH_GOOSEBIT = """
import asyncio, json, sys
from anyio import Path
from goosebit.updates.swdesc import parse_file
image = asyncio.run(parse_file(Path(sys.argv[1])))
image = {"version": str(image["version"]), **{k: image[k] for k in ("compatibility", "size")}}
print(json.dumps(image))
"""


@pytest.mark.skipif(not goosebit.PYTHON.exists(), reason=goosebit.NO_GOOSEBIT)
def test_goosebit_parses_version_boards_and_size(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = make_bundle(counter=12, compatible=ORIN)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [str(goosebit.PYTHON), "-c", PARSE_WITH_GOOSEBIT, str(path)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image = json.loads(done.stdout.splitlines()[-1])
    assert image["version"] == "12.0.0"
    assert image["compatibility"] == [
        {"hw_model": "default", "hw_revision": "orin-nano"},
        {"hw_model": "default", "hw_revision": "orin-nx"},
    ]
    assert image["size"] == path.stat().st_size


def test_loading_a_key_without_its_certificate_raises_input_error(cms: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_cms_signer(cms / "key.pem", tmp_path / "none")
    with pytest.raises(InputError, match="not an unencrypted PEM"):
        load_cms_signer(cms / "cert.pem", cms / "key.pem")
