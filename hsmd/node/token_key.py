"""The key of a node in a token of its own: made there, and never outside of it. Needs the extra `token`.

The token is opened for each request and closed again: between two renewals nothing of the node has a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.errors import BadRequest
from hsmd.pkcs11 import own_keys
from hsmd.pkcs11.own_keys import token_errors
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file


def public_key(file: Path, label: str) -> bytes:
    """The SubjectPublicKeyInfo (DER) of the signing key with this label, which is made if there is none. Raises HsmdError."""
    with _opened(file) as session, token_errors():
        found = own_keys.signing_key(session, label) or own_keys.make_signing_key(session, label)
        return found[1].spki


def request(file: Path, label: str, public: bytes) -> str:
    """A certificate request in PEM, as `TlsKey.request` makes it, signed in the token. Raises HsmdError.

    BadRequest if the key with this label is another one than that with the public half `public`.
    """
    with _opened(file) as session, token_errors():
        found = own_keys.signing_key(session, label)
        if found is None or found[1].spki != public:
            raise BadRequest(
                f"the token has another key with the label {label!r} than before; set the node up again: hsmd node init --again"
            )
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        made = builder.sign(_Signer(*found), hashes.SHA256())  # type: ignore[arg-type]
        return made.public_bytes(Encoding.PEM).decode()


class _Signer:
    """What the builder of `cryptography` asks of a private key."""

    def __init__(self, private: Any, half: PublicHalf) -> None:
        self._private = private
        self._half = half

    def public_key(self) -> Any:
        return self._half.public_key

    def sign(self, data: bytes, *_: object) -> bytes:
        """ECDSA with SHA-256 in the token."""
        return own_keys.sign_p256(self._private, bytes(data))


ec.EllipticCurvePrivateKey.register(_Signer)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    token = open_token(read_token_file(file, read_write=True))
    try:
        yield token.session
    finally:
        token.session.close()
