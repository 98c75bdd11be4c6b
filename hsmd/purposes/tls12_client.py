"""What a TLS 1.2 client's CertificateVerify signs: the handshake from ClientHello to ClientKeyExchange.

RFC 5246, section 7.4.8 (section 7.3 for the order of messages). The transcript must show that the server requested a
certificate and offered this signature scheme, and that the client sent the certificate of this key. A transcript that can be
read as another signed format is refused (other_formats.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hsmd.algorithms import SignatureScheme
from hsmd.purposes.named_groups import NAMED_CURVE, NAMED_GROUPS
from hsmd.purposes.other_formats import other_format
from hsmd.purposes.vectors import VectorReader
from hsmd.purposes.x509 import public_key_of_certificate

_WHAT = "a TLS 1.2 client transcript"
_TLS12 = 0x0303
_RANDOM_BYTES = 32
_MAX_SESSION_ID_BYTES = 32
_SUPPORTED_VERSIONS = 43
"""An extension that only a TLS 1.3 ServerHello contains (RFC 8446, section 4.2.1)."""
_SHORTEST_BYTES = 202
"""One more than the longest ServerKeyExchange form, so that no bytes pass as both. Real transcripts are far longer."""

MAX_CERTIFICATES = 100
"""In one list: OpenSSL verifies no longer chains. Servers send about ten at most."""
MAX_EXTENSIONS = 100
"""In one hello. About 70 types are registered, and browsers send about 20."""
MAX_SCHEMES = 128
"""That a server offers. OpenSSL 3.5 offers 30."""
MAX_AUTHORITIES = 1_000
"""That a server names: the 144 of Debian's ca-certificates are 15 kB, so a transcript of 64 kB has room for about 600."""

_POINT_BYTES = frozenset(group.point_bytes for group in NAMED_GROUPS)


def check_client_transcript(spki: bytes, scheme: SignatureScheme, data: bytes) -> None:
    """Pass if `data` is a whole TLS 1.2 client transcript in which the key `spki` signs with `scheme`.

    `spki` is DER as in RFC 5280, section 4.1. Raises PurposeMismatch.
    """
    handshake = VectorReader(data, _WHAT)
    if len(data) < _SHORTEST_BYTES:
        raise handshake.mismatch("it is too short")
    expected = _Expected(spki, scheme)
    for step in _STEPS:
        if handshake.next_byte() == step.type:
            handshake.uint(1)
            step.check(handshake.vector(3), expected)
        elif not step.optional:
            raise handshake.mismatch(f"no {step.name} where one must be")
    handshake.finish()
    if other := other_format(data):
        raise handshake.mismatch(f"it can be read as another signed format: {other}")


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the transcript must show."""

    spki: bytes
    scheme: SignatureScheme


@dataclass(frozen=True, slots=True)
class _Step:
    """One handshake message of the sequence; `check` gets a reader for its body."""

    name: str
    type: int
    check: Callable[[VectorReader, _Expected], None]
    optional: bool = False


def _client_hello(body: VectorReader, _: _Expected) -> None:
    _hello_head(body)
    body.vector(2, least=2, multiple_of=2)  # cipher_suites
    body.vector(1, least=1)  # compression_methods
    _extensions(body)


def _server_hello(body: VectorReader, _: _Expected) -> None:
    _hello_head(body)
    body.take(2)  # cipher_suite
    body.take(1)  # compression_method
    if _SUPPORTED_VERSIONS in _extensions(body):
        raise body.mismatch("the server chose another TLS version")


def _hello_head(body: VectorReader) -> None:
    if body.uint(2) != _TLS12:
        raise body.mismatch("a hello is not of TLS 1.2")
    body.take(_RANDOM_BYTES)
    body.vector(1, most=_MAX_SESSION_ID_BYTES)


def _extensions(body: VectorReader) -> set[int]:
    """The types of the extensions, none if there is no extension block (RFC 5246, section 7.4.1.4)."""
    types: set[int] = set()
    if body.at_end():
        return types
    extensions = body.vector(2)
    body.finish()
    for _ in range(MAX_EXTENSIONS):
        if extensions.at_end():
            return types
        types.add(extensions.uint(2))
        extensions.vector(2)
    if not extensions.at_end():
        raise body.mismatch(f"more than {MAX_EXTENSIONS} extensions")
    return types


def _server_certificate(body: VectorReader, _: _Expected) -> None:
    _first_certificate(body)


def _client_certificate(body: VectorReader, expected: _Expected) -> None:
    certificate = _first_certificate(body)
    if public_key_of_certificate(certificate, _WHAT) != expected.spki:
        raise body.mismatch("the client's certificate is not of this key")


def _first_certificate(body: VectorReader) -> bytes:
    """The first certificate of a certificate_list<0..2^24-1>, which must not be empty here."""
    certificates = body.vector(3, least=1)
    body.finish()
    first = certificates.vector(3, least=1).rest()
    certificates.count_vectors(3, most=MAX_CERTIFICATES - 1, what="certificates behind the first")
    return first


def _certificate_request(body: VectorReader, expected: _Expected) -> None:
    body.vector(1, least=1)  # certificate_types
    offered = body.vector(2, least=2, most=2 * MAX_SCHEMES, multiple_of=2)
    authorities = body.vector(2)
    body.finish()
    authorities.count_vectors(2, most=MAX_AUTHORITIES, what="certification authorities")
    schemes = offered.rest()
    if expected.scheme not in {int.from_bytes(schemes[at : at + 2]) for at in range(0, len(schemes), 2)}:
        raise body.mismatch("the server did not offer this signature scheme")


def _empty(body: VectorReader, _: _Expected) -> None:
    body.finish()


def _certificate_status(body: VectorReader, _: _Expected) -> None:
    """CertificateStatus (RFC 6066, section 8): the type `ocsp` and one response."""
    body.take(1)
    body.vector(3, least=1)
    body.finish()


def _server_key_exchange(body: VectorReader, _: _Expected) -> None:
    """ServerECDHParams (RFC 8422, section 5.4) or ServerDHParams (RFC 5246, section 7.4.3), and a signature."""
    if body.next_byte() == NAMED_CURVE:
        body.take(3)  # curve_type, namedcurve
        body.vector(1, least=1)  # public
    else:
        for _number in ("dh_p", "dh_g", "dh_Ys"):
            body.vector(2, least=1)
    body.take(2)  # algorithm
    body.vector(2, least=1)  # signature
    body.finish()


def _client_key_exchange(body: VectorReader, _: _Expected) -> None:
    """One vector: an EC point (RFC 8422, section 5.7), or dh_Yc or a premaster secret (RFC 5246, section 7.4.7)."""
    length = body.next_byte()
    is_point = length in _POINT_BYTES and length == body.left() - 1
    body.vector(1 if is_point else 2, least=1)
    body.finish()


_STEPS = (
    _Step("ClientHello", 1, _client_hello),
    _Step("ServerHello", 2, _server_hello),
    _Step("server Certificate", 11, _server_certificate),
    _Step("CertificateStatus", 22, _certificate_status, optional=True),
    _Step("ServerKeyExchange", 12, _server_key_exchange, optional=True),
    _Step("CertificateRequest", 13, _certificate_request),
    _Step("ServerHelloDone", 14, _empty),
    _Step("client Certificate", 11, _client_certificate),
    _Step("ClientKeyExchange", 16, _client_key_exchange),
)
