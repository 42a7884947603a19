"""The bundle as others see it: SWUpdate, gooseBit and cpio, where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
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

SWUPDATE = shutil.which("swupdate")
CPIO = shutil.which("cpio")
GOOSEBIT = Path(os.environ.get("GOOSEBIT_PYTHON", "/nonexistent"))
ORIN = Compatibility(boards=("orin-nano", "orin-nx"))


@pytest.fixture(scope="module")
def cms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an RSA key and its certificate for emailProtection."""
    place = tmp_path_factory.mktemp("cms")
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
    (place / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (place / "key.pem").write_bytes(
        private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return place


@pytest.fixture
def signer(cms: Path) -> CmsSigner:
    return load_cms_signer(cms / "key.pem", cms / "cert.pem")


def accepted(bundle: Path, cms: Path) -> bool:
    words = [str(SWUPDATE), "-c", "-i", str(bundle), "-k", str(cms / "cert.pem"), "-H", "aerogaze:orin-nano"]
    null = subprocess.DEVNULL  # a child that it leaves would keep a pipe open
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:  # its own: others may run one at the same time
        own = {**os.environ, "TMPDIR": sockets}
        return subprocess.run(words, env=own, stdout=null, stderr=null, timeout=60).returncode == 0


@pytest.mark.skipif(SWUPDATE is None, reason="no swupdate on this machine (apt-get install swupdate)")
def test_swupdate_accepts_it(
    make: Callable[..., Path], signer: CmsSigner, cms: Path, bundle: Path, tmp_path: Path
) -> None:
    place = make(cms=signer, compatible=ORIN)
    assert accepted(place, cms)
    assert not accepted(bundle, cms), "Debian's takes no image without a CMS signature"
    (tmp_path / "spoilt.swu").write_bytes(place.read_bytes().replace(b"skd-64", b"skd-65", 1))
    assert not accepted(tmp_path / "spoilt.swu", cms)


def test_the_cms_signature_is_part_of_the_canonical_file(
    make: Callable[..., Path], signer: CmsSigner, tmp_path: Path
) -> None:
    place = make(cms=signer)
    data = place.read_bytes()
    assert data == make(cms=signer).read_bytes()
    with place.open("rb") as file:
        cms = read_bundle(file, "b").cms
    assert cms is not None
    at = data.index(cms) + len(cms) // 2
    spoilt = tmp_path / "b.swu"
    spoilt.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with spoilt.open("rb") as file, pytest.raises((InputError, CheckError)):
        read_bundle(file, "b")


@pytest.mark.skipif(CPIO is None, reason="no cpio on this machine (apt-get install cpio)")
def test_cpio_unpacks_it_and_finds_its_checksums_right(bundle: Path, small: Path, tmp_path: Path) -> None:
    with bundle.open("rb") as file:
        words = [str(CPIO), "-id", "--only-verify-crc"]
        told = subprocess.run(words, stdin=file, cwd=tmp_path, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        assert "checksum error" not in told.stderr
        file.seek(0)
        subprocess.run([str(CPIO), "-id"], stdin=file, cwd=tmp_path, check=True, capture_output=True)
    for path in small.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


GOOSE = """
import asyncio, json, sys
from anyio import Path
from goosebit.updates.swdesc import parse_file
told = asyncio.run(parse_file(Path(sys.argv[1])))
told = {"version": str(told["version"]), **{k: told[k] for k in ("compatibility", "size")}}
print(json.dumps(told))
"""


@pytest.mark.skipif(not GOOSEBIT.exists(), reason="GOOSEBIT_PYTHON names no Python that has goosebit")
def test_goosebit_reads_it(make: Callable[..., Path], tmp_path: Path) -> None:
    place = make(counter=12, compatible=ORIN)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [str(GOOSEBIT), "-c", GOOSE, str(place)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["version"] == "12.0.0"
    assert told["compatibility"] == [
        {"hw_model": "default", "hw_revision": "orin-nano"},
        {"hw_model": "default", "hw_revision": "orin-nx"},
    ]
    assert told["size"] == place.stat().st_size


def test_a_key_without_its_certificate_is_one_line(cms: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_cms_signer(cms / "key.pem", tmp_path / "none")
    with pytest.raises(InputError, match="no unencrypted PEM"):
        load_cms_signer(cms / "cert.pem", cms / "key.pem")
