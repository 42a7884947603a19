"""SWUpdate's own signature: CMS over `sw-description`, for boards whose SWUpdate takes nothing unsigned.

Ours (Ed25519, in `jetson.signing.keys`) is the one that aerogaze checks; this one only lets Debian's
SWUpdate and
others built like it accept the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs7

from edge.core.errors import InputError


@dataclass(frozen=True)
class CmsSigner:
    """An RSA key and its certificate."""

    key: RSAPrivateKey
    certificate: x509.Certificate

    def sign(self, data: bytes) -> bytes:
        """Return a detached CMS signature in DER; without the time of signing, always the same one."""
        options = [
            pkcs7.PKCS7Options.DetachedSignature,
            pkcs7.PKCS7Options.Binary,
            pkcs7.PKCS7Options.NoAttributes,
        ]
        builder = pkcs7.PKCS7SignatureBuilder().set_data(data)
        return builder.add_signer(self.certificate, self.key, hashes.SHA256()).sign(
            serialization.Encoding.DER, options
        )


def load_cms_signer(key: Path, certificate: Path) -> CmsSigner:
    """Read an RSA key and its certificate, both PEM.

    Raises:
        InputError: they are something else, or do not belong together.
    """
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise InputError(
            f"{key} or {certificate} is no unencrypted PEM key or certificate: name others"
        ) from None
    if not isinstance(private, RSAPrivateKey) or private.public_key() != read.public_key():
        raise InputError(f"{key} is no RSA key, or {certificate} is not its certificate: name others")
    return CmsSigner(private, read)
