"""Every key type with every scheme: signatures verify with the public key, and the ceiling limits what is signed."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature

from hsmd.algorithms import SCHEMES, KeyType, SignatureScheme, schemes_for
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import PurposeMismatch, Refused
from hsmd.purposes import Purpose
from tests.support.signatures import verify
from tests.support.tls_bytes import CERTIFICATE_VERIFY, SERVER_KEY_EXCHANGE
from tests.support.tokens import RawWorker

ALL = [(kind, scheme) for kind in KeyType for scheme in schemes_for(kind)]


@pytest.mark.parametrize(("kind", "scheme"), ALL, ids=lambda value: getattr(value, "name", str(value)))
def test_signs_with_every_scheme(
    worker: RawWorker, keys: dict[str, KeyDescription], kind: KeyType, scheme: SignatureScheme
) -> None:
    key = keys[kind.value]
    signature = worker.use(Purpose.TLS12_SERVER, scheme, bytes.fromhex(key.key), SERVER_KEY_EXCHANGE)
    verify(key.public_key, scheme, signature, SERVER_KEY_EXCHANGE)
    with pytest.raises(InvalidSignature):
        verify(key.public_key, scheme, signature, SERVER_KEY_EXCHANGE + b"x")


def test_verify_all_signs_alike(start, token, keys: dict[str, KeyDescription]) -> None:
    raw = start(token, verify="all").ready()
    for kind in KeyType:
        key = keys[kind.value]
        scheme = schemes_for(kind)[0]
        signature = raw.use(Purpose.TLS12_SERVER, scheme, bytes.fromhex(key.key), SERVER_KEY_EXCHANGE)
        verify(key.public_key, scheme, signature, SERVER_KEY_EXCHANGE)


@pytest.mark.parametrize("name", ["digest", "rsa-digest"])
def test_signs_a_digest_as_given(worker: RawWorker, keys: dict[str, KeyDescription], name: str) -> None:
    key = keys[name]
    for scheme in schemes_for(KeyType(key.key_type)):
        message = b"a message hashed elsewhere"
        digest = hashlib.new(SCHEMES[scheme].hash, message).digest()
        signature = worker.use(Purpose.SIGN_DIGEST, scheme, bytes.fromhex(key.key), digest)
        verify(key.public_key, scheme, signature, message)


def test_signs_messages_of_any_length(worker: RawWorker, keys: dict[str, KeyDescription]) -> None:
    key = keys["message"]
    for message in (b"", b"x", bytes(65_000)):
        signature = worker.use(
            Purpose.SIGN_MESSAGE, SignatureScheme.ECDSA_SHA256, bytes.fromhex(key.key), message
        )
        verify(key.public_key, SignatureScheme.ECDSA_SHA256, signature, message)


OUTSIDE = [
    ("p-256", Purpose.SIGN_MESSAGE, SignatureScheme.ECDSA_SHA256, b"anything"),
    ("p-256", Purpose.SIGN_DIGEST, SignatureScheme.ECDSA_SHA256, bytes(32)),
    ("p-256", Purpose.X509_REQUEST, SignatureScheme.ECDSA_SHA256, b"0"),
    ("message", Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY),
    ("rsa-2048", Purpose.TLS12_RSA_PREMASTER, 0, bytes(256)),
    ("premaster", Purpose.TLS12_SERVER, SignatureScheme.RSA_PKCS1_SHA256, SERVER_KEY_EXCHANGE),
    ("premaster", Purpose.SIGN_DIGEST, SignatureScheme.RSA_PKCS1_SHA256, bytes(32)),
    ("digest", Purpose.SIGN_MESSAGE, SignatureScheme.ECDSA_SHA256, b"anything"),
]


@pytest.mark.parametrize(("name", "purpose", "scheme", "data"), OUTSIDE)
def test_the_ceiling_holds_against_the_front(
    worker: RawWorker, keys: dict[str, KeyDescription], name: str, purpose: int, scheme: int, data: bytes
) -> None:
    started = worker.progress.started
    with pytest.raises(PurposeMismatch):
        worker.use(purpose, scheme, bytes.fromhex(keys[name].key), data)
    assert worker.progress.started == started, "the key was used"


WRONG_BYTES = [
    (Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, b""),
    (Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY[:-1]),
    (Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY.replace(b"server", b"client")),
    (Purpose.TLS13_CLIENT, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY),
    (Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, SERVER_KEY_EXCHANGE),
    (Purpose.TLS12_SERVER, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY),
    (Purpose.TLS12_SERVER, SignatureScheme.ECDSA_SHA256, SERVER_KEY_EXCHANGE[:-1]),
    (Purpose.TLS12_SERVER, SignatureScheme.ECDSA_SHA256, bytes(60_000)),
    (Purpose.TLS13_SERVER, SignatureScheme.RSA_PSS_SHA256, CERTIFICATE_VERIFY),
    (Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA384, CERTIFICATE_VERIFY),
    (Purpose.TLS13_SERVER, 0, CERTIFICATE_VERIFY),
    (Purpose.TLS13_SERVER, 0xFFFF, CERTIFICATE_VERIFY),
    (0, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY),
    (0xFF, SignatureScheme.ECDSA_SHA256, CERTIFICATE_VERIFY),
]


@pytest.mark.parametrize(("purpose", "scheme", "data"), WRONG_BYTES)
def test_bytes_that_do_not_match_the_purpose_are_refused(
    worker: RawWorker, keys: dict[str, KeyDescription], purpose: int, scheme: int, data: bytes
) -> None:
    started = worker.progress.started
    with pytest.raises(PurposeMismatch):
        worker.use(purpose, scheme, bytes.fromhex(keys["p-256"].key), data)
    assert worker.progress.started == started, "the key was used"


def test_an_unknown_key_is_refused(worker: RawWorker) -> None:
    with pytest.raises(Refused):
        worker.use(Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, bytes(32), CERTIFICATE_VERIFY)


def test_every_request_of_a_batch_is_answered(worker: RawWorker, keys: dict[str, KeyDescription]) -> None:
    """Slow and fast keys and refused requests in one write: each request is answered once, with its id."""
    expected = {}
    names = [
        "p-256",
        "rsa-2048",
        "p-256",
        "message",
        "p-256",
        "ed25519",
        "p-256",
        "p-256",
        "p-256",
        "rsa-2048",
    ]
    for name in names:
        scheme = schemes_for(KeyType(keys[name].key_type))[0]
        request_id = worker.send_use(
            Purpose.TLS12_SERVER, scheme, bytes.fromhex(keys[name].key), SERVER_KEY_EXCHANGE
        )
        expected[request_id] = (name, scheme)
    for _ in names:
        kind, request_id, body = worker.frame()
        name, scheme = expected.pop(request_id)
        if name == "message":
            assert kind == 0x12
        else:
            verify(keys[name].public_key, scheme, body, SERVER_KEY_EXCHANGE)
    assert not expected
