"""RSA premaster secrets: valid ones are decrypted, all malformed ones get indistinguishable answers."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import PurposeMismatch
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.purposes import Purpose
from tests.support.tokens import RawWorker, generate

PREMASTER = b"\x03\x03" + bytes(range(1, 47))
SIZE = 256


def numbers(key: KeyDescription) -> tuple[int, int]:
    public_key = load_der_public_key(key.public_key)
    assert isinstance(public_key, RSAPublicKey)
    public = public_key.public_numbers()
    return public.n, public.e


def encrypt(key: KeyDescription, plain: bytes) -> bytes:
    """Raw RSA with the public key."""
    n, e = numbers(key)
    return pow(int.from_bytes(plain, "big"), e, n).to_bytes(SIZE, "big")


def padded(secret: bytes = PREMASTER, *, lead: bytes = b"\x00\x02", gap: bytes = b"\x00") -> bytes:
    """PKCS #1 v1.5, type 2 (RFC 8017, section 7.2.1)."""
    return lead + b"\xa7" * (SIZE - len(lead) - len(gap) - len(secret)) + gap + secret


def with_byte(plain: bytes, at: int, value: int) -> bytes:
    return plain[:at] + bytes([value]) + plain[at + 1 :]


def malformed(key: KeyDescription) -> dict[str, bytes]:
    """Ciphertexts with every fault that a Bleichenbacher attack tries to distinguish."""
    n, _ = numbers(key)
    good = padded()
    separator = SIZE - 49
    plains = {
        "first byte": with_byte(good, 0, 1),
        "block type 1": with_byte(good, 1, 1),
        "block type 0": with_byte(good, 1, 0),
        "no separator": with_byte(good, separator, 0x55),
        "zero in the first eight padding bytes": with_byte(good, 5, 0),
        "zero late in the padding": with_byte(good, separator - 1, 0),
        "secret of 47 bytes": padded(PREMASTER[:-1]),
        "secret of 49 bytes": padded(PREMASTER + b"x"),
        "empty secret": padded(b""),
        "version 03 01": padded(b"\x03\x01" + PREMASTER[2:]),
        "version 03 04": padded(b"\x03\x04" + PREMASTER[2:]),
        "version 00 03": padded(b"\x00\x03" + PREMASTER[2:]),
        "all zero": bytes(SIZE),
        "one": bytes(SIZE - 1) + b"\x01",
        "random": b"\x00" + hashlib.shake_256(b"random").digest(SIZE - 1),
    }
    ciphertexts = {name: encrypt(key, plain) for name, plain in plains.items()}
    return ciphertexts | {
        "the modulus": n.to_bytes(SIZE, "big"),
        "above the modulus": b"\xff" * SIZE,
        "one byte short": encrypt(key, good)[:-1],
        "one byte long": b"\x00" + encrypt(key, good),
        "a single byte": b"\x05",
        "of a 4096-bit key": b"\x11" * 512,
    }


@pytest.fixture(scope="module")
def key(keys: dict[str, KeyDescription]) -> KeyDescription:
    return keys["premaster"]


def open_with(worker: RawWorker, key: KeyDescription, ciphertext: bytes) -> bytes:
    return worker.use(Purpose.TLS12_RSA_PREMASTER, 0, bytes.fromhex(key.key), ciphertext)


def test_a_valid_secret_is_decrypted(worker: RawWorker, key: KeyDescription) -> None:
    assert open_with(worker, key, encrypt(key, padded())) == PREMASTER
    zeros = b"\x03\x03" + bytes(46)
    assert open_with(worker, key, encrypt(key, padded(zeros))) == zeros


def test_malformed_secrets_get_indistinguishable_answers(worker: RawWorker, key: KeyDescription) -> None:
    """Same kind of frame, size and version bytes as for a valid one; the rest is unrelated to the plaintext."""
    cases = malformed(key)
    assert len(cases) >= 12
    answers = {}
    open_with(worker, key, encrypt(key, padded()))
    for name, ciphertext in cases.items():
        finished = worker.progress.finished
        answer = open_with(worker, key, ciphertext)
        assert worker.progress.finished == finished + 1, f"{name}: not exactly one use of the key"
        assert len(answer) == 48, name
        assert answer[:2] == b"\x03\x03", name
        assert answer[2:] != PREMASTER[2:], name
        answers[name] = answer
    assert len(set(answers.values())) == len(cases), "two ciphertexts got the same secret"


def test_repeated_requests_get_the_same_answer(
    start, token: SoftHsmToken, worker: RawWorker, key: KeyDescription
) -> None:
    """The same answer again, also from another worker and after a restart, as for a valid ciphertext."""
    cases = malformed(key)
    first = {name: open_with(worker, key, ciphertext) for name, ciphertext in cases.items()}
    assert {name: open_with(worker, key, ciphertext) for name, ciphertext in cases.items()} == first
    other = start(token).ready()
    assert {name: open_with(other, key, ciphertext) for name, ciphertext in cases.items()} == first


def test_the_secret_is_not_public(worker: RawWorker, key: KeyDescription) -> None:
    """The pseudo-random answer cannot be computed from the public key."""
    ciphertext = malformed(key)["random"]
    answer = open_with(worker, key, ciphertext)
    for guess in (b"", bytes(32), bytes.fromhex(key.key), hashlib.sha256(key.public_key).digest()):
        assert hmac.digest(guess, b"\x01" + ciphertext, "sha256")[:30] != answer[2:32]


def test_each_key_has_its_own_secret(control: RawWorker, worker: RawWorker, key: KeyDescription) -> None:
    other = generate(control, "premaster-2", "rsa-2048", ["tls12-rsa-premaster"])
    ciphertext = b"\x01" * SIZE
    fresh = RawWorker(worker.token).ready()
    try:
        assert open_with(fresh, other, ciphertext) != open_with(fresh, key, ciphertext)
    finally:
        fresh.close()


def test_a_length_that_no_rsa_key_has_is_refused_before_the_key_is_used(
    worker: RawWorker, key: KeyDescription
) -> None:
    started = worker.progress.started
    for data in (b"", os.urandom(1025)):
        with pytest.raises(PurposeMismatch):
            open_with(worker, key, data)
    assert worker.progress.started == started
