"""CMS signatures over `sw-description`, for boards whose SWUpdate rejects unsigned images.

Aerogaze itself verifies only the Ed25519 signatures of `jetson.signing.keys`. The CMS signature lets
SWUpdate accept the image where it was built to require one, as Debian's is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs7

from edge.core.errors import InputError
from edge.core.guarded_files import read_bytes
from jetson.signing.keys import MAX_FILE_BYTES


@dataclass(frozen=True)
class CmsSigner:
    """RSA key and its certificate."""

    key: RSAPrivateKey
    certificate: x509.Certificate

    def sign(self, data: bytes) -> bytes:
        """Return a detached CMS signature in DER, without signing time: equal data gives equal bytes."""
        options = [
            pkcs7.PKCS7Options.DetachedSignature,
            pkcs7.PKCS7Options.Binary,
            pkcs7.PKCS7Options.NoAttributes,
        ]
        builder = pkcs7.PKCS7SignatureBuilder().set_data(data)
        return builder.add_signer(self.certificate, self.key, hashes.SHA256()).sign(
            serialization.Encoding.DER, options
        )


def load_cms_signer(key_path: Path, certificate_path: Path) -> CmsSigner:
    """Read an RSA key and its certificate, both in PEM.

    Raises:
        InputError: A file is not readable or not in this format, or the two do not belong together.
    """
    try:
        expected = "an RSA key and its certificate in PEM"
        key_data, certificate_data = (
            read_bytes(path, MAX_FILE_BYTES, expected, accepts_pipe=True)
            for path in (key_path, certificate_path)
        )
        private_key = serialization.load_pem_private_key(key_data, password=None)
        certificate = x509.load_pem_x509_certificate(certificate_data)
    except (ValueError, TypeError):
        raise InputError(
            f"{key_path} or {certificate_path} is not an unencrypted PEM key or certificate: name other files"
        ) from None
    if not isinstance(private_key, RSAPrivateKey) or private_key.public_key() != certificate.public_key():
        raise InputError(
            f"{key_path} is not an RSA key, or {certificate_path} is not its certificate: name other files"
        )
    return CmsSigner(private_key, certificate)
