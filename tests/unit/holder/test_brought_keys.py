"""Keys that owners bring: every usual form of file is read, and what is wrong with one is said without using it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from hsmd.envelopes import content as contents
from hsmd.errors import BadRequest
from hsmd.holder import brought_keys, encryption_parameters
from hsmd.holder.brought_keys import PassphraseNeeded, from_file, secret_from
from hsmd.holder.file_encryption import PassphraseRefused
from tests.support.envelopes import rsa_key

WORD = b"correct horse"
KEYS: dict[str, Any] = {
    "rsa": rsa_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
}


def pkcs8_of(key: Any) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encoded


def certificate(key: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(1)).sign(
        key, hashes.SHA256()
    )


def p12(key: Any, rounds: int = 20_000, *, legacy: bool = False) -> bytes:
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(rounds)
        .key_cert_algorithm(
            pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC if legacy else pkcs12.PBES.PBESv2SHA256AndAES256CBC
        )
        .hmac_hash(hashes.SHA256())
        .build(WORD)
    )
    return pkcs12.serialize_key_and_certificates(b"www", key, certificate(key), None, encryption)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("passphrase", [None, WORD])
def test_pkcs8_is_read_with_and_without_a_passphrase(
    kind: str, encoding: Encoding, passphrase: bytes | None
) -> None:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    content = KEYS[kind].private_bytes(encoding, PrivateFormat.PKCS8, encryption)
    found = from_file(content, passphrase)
    assert found.pkcs8 == pkcs8_of(KEYS[kind])
    assert contents.spki_digest(found.pkcs8) is not None


@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_traditional_pem_is_read(kind: str) -> None:
    plain = KEYS[kind].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert from_file(b"a comment\n" + plain, None).pkcs8 == pkcs8_of(KEYS[kind])
    hidden = KEYS[kind].private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(WORD)
    )
    assert from_file(hidden, WORD).pkcs8 == pkcs8_of(KEYS[kind])
    with pytest.raises(PassphraseNeeded):
        from_file(hidden, None)


@pytest.mark.parametrize("kind", ["rsa", "p256"])
@pytest.mark.parametrize("legacy", [False, True])
def test_pkcs12_is_read(kind: str, legacy: bool) -> None:
    content = p12(KEYS[kind], legacy=legacy)
    assert from_file(content, WORD).pkcs8 == pkcs8_of(KEYS[kind])
    with pytest.raises(PassphraseNeeded, match="PKCS#12 file is encrypted"):
        from_file(content, None)
    with pytest.raises(PassphraseRefused):
        from_file(content, b"wrong")


def test_a_wrong_passphrase_is_told_from_a_missing_one() -> None:
    hidden = KEYS["p256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(WORD))
    with pytest.raises(PassphraseNeeded, match="encrypted; give its passphrase"):
        from_file(hidden, None)
    with pytest.raises(PassphraseRefused, match="does not open the key file"):
        from_file(hidden, b"wrong")


@pytest.mark.parametrize("legacy", [False, True])
def test_absurd_iterations_of_pkcs12_are_refused_before_decrypting(
    legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each count by itself, and all of a file together; the library is never asked."""
    content = p12(KEYS["p256"], rounds=9_000, legacy=legacy)
    monkeypatch.setattr(encryption_parameters, "MAX_ITERATIONS", 17_000)  # two parts of 9000
    monkeypatch.setattr(pkcs12, "load_key_and_certificates", lambda *_: pytest.fail("was decrypted"))
    with pytest.raises(BadRequest, match="more than 17,000 iterations"):
        from_file(content, WORD)


def _pem(label: str, der: bytes) -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    length = (
        bytes([size]) if size < 0x80 else b"\x81%c" % size if size < 0x100 else b"\x82" + size.to_bytes(2)
    )
    return bytes([tag]) + length + content


def integer(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1))


def oid(text: str) -> bytes:
    return der(6, bytes.fromhex(text))


PBES2, PBKDF2, SCRYPT, PBMAC1 = (
    "2a864886f70d01050d",
    "2a864886f70d01050c",
    "2b06010401da47040b",
    "2a864886f70d01050e",
)
AES = der(0x30, oid("60864801650304012a"), der(4, bytes(16)))


def pbkdf2(count: int) -> bytes:
    return der(0x30, oid(PBKDF2), der(0x30, der(4, bytes(8)), integer(count)))


def scrypt(*numbers: int) -> bytes:
    return der(0x30, oid(SCRYPT), der(0x30, der(4, bytes(8)), *map(integer, numbers)))


def encrypted_key(function: bytes) -> bytes:
    return der(0x30, der(0x30, oid(PBES2), der(0x30, function, AES)), der(4, bytes(64)))


def pfx(*bags: bytes, mac: bytes = b"") -> bytes:
    def data(content: bytes) -> bytes:
        return der(0x30, oid("2a864886f70d010701"), der(0xA0, der(4, content)))

    return der(0x30, integer(3), data(der(0x30, *(data(der(0x30, bag)) for bag in bags))), mac)


def mac(count: int) -> bytes:
    return der(
        0x30,
        der(0x30, der(0x30, oid("608648016503040201")), der(4, bytes(32))),
        der(4, bytes(8)),
        integer(count),
    )


def pbmac1(count: int) -> bytes:
    algorithm = der(0x30, oid(PBMAC1), der(0x30, pbkdf2(count), der(0x30, oid("2a864886f70d0209"))))
    return der(0x30, der(0x30, algorithm, der(4, bytes(32))), der(4, b""), integer(1))


def shrouded(count: int) -> bytes:
    return der(0x30, oid("2a864886f70d010c0a0102"), der(0xA0, encrypted_key(pbkdf2(count))))


M = encryption_parameters.MAX_ITERATIONS


@pytest.mark.parametrize(
    "function",
    [pbkdf2(M + 1), pbkdf2(1 << 90), scrypt(1 << 20, 8, 1), scrypt(1 << 14, 8, 1 << 20)],
    ids=["count", "number", "memory", "time"],
)
def test_absurd_work_of_pkcs8_is_refused_before_decrypting(function: bytes) -> None:
    content = encrypted_key(function)
    for file in (content, _pem("ENCRYPTED PRIVATE KEY", content)):
        with pytest.raises(BadRequest, match=r"iterations|scrypt"):
            from_file(file, WORD)


@pytest.mark.parametrize(
    "content",
    [
        pfx(mac=mac(M + 1)),
        pfx(mac=pbmac1(M + 1)),
        pfx(shrouded(M + 1)),
        pfx(shrouded(M // 2), shrouded(M // 2), mac=mac(2)),
    ],
    ids=["mac", "pbmac1", "bag", "sum"],
)
def test_absurd_work_of_pkcs12_is_refused_before_decrypting(content: bytes) -> None:
    with pytest.raises(BadRequest, match="iterations"):
        from_file(content, WORD)


def encrypted_part(content: bytes) -> bytes:
    """A part of a PFX that is encrypted with WORD."""
    salt, initial = bytes(8), bytes(16)
    key = PBKDF2HMAC(hashes.SHA1(), 32, salt, 1_000).derive(WORD)
    padding = 16 - len(content) % 16
    encryptor = Cipher(algorithms.AES(key), modes.CBC(initial)).encryptor()
    encrypted = encryptor.update(content + bytes([padding]) * padding) + encryptor.finalize()
    algorithm = der(0x30, oid(PBES2), der(0x30, pbkdf2(1_000), AES))
    info = der(0x30, oid("2a864886f70d010701"), algorithm, der(0x80, encrypted))
    return der(0x30, oid("2a864886f70d010706"), der(0xA0, der(0x30, integer(0), info)))


def test_a_key_inside_an_encrypted_part_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its iterations cannot be seen before the part is decrypted; the library would do them all."""
    monkeypatch.setattr(pkcs12, "load_key_and_certificates", lambda *_: pytest.fail("was decrypted"))
    part = encrypted_part(der(0x30, shrouded(1 << 40)))
    safes = der(0x30, oid("2a864886f70d010701"), der(0xA0, der(4, der(0x30, part))))
    with pytest.raises(BadRequest, match="no private key in the PKCS#12 file outside of its encrypted parts"):
        from_file(der(0x30, integer(3), safes), WORD)
    content = p12(KEYS["p256"])
    assert encryption_parameters.check_pkcs12(content).has_encrypted_parts
    assert from_file(content, WORD).pkcs8 == pkcs8_of(KEYS["p256"])


def test_usual_work_is_not_refused() -> None:
    for content in (encrypted_key(pbkdf2(600_000)), encrypted_key(scrypt(1 << 17, 8, 1))):
        encryption_parameters.check_pkcs8(content)
    encryption_parameters.check_pkcs12(pfx(shrouded(100_000), shrouded(100_000), mac=mac(100_000)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither PEM nor PKCS#12"),
        (b"hello", "neither PEM nor PKCS#12"),
        (b"\x30\x03\x02\x01\x03", "not a PKCS#12 file in DER"),
        (b"\x30\x80\x02\x01\x03\0\0", "unusable ASN.1 length; write it anew"),
        (b"\x30\x03\x02\x01\x00", "damaged"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", "no private key in the PEM file"),
        (b"0" * (brought_keys.MAX_FILE_BYTES + 1), "more than 262144 bytes"),
    ],
)
def test_what_is_no_key_file_is_named(content: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        from_file(content, None)


def test_two_keys_in_one_file_are_not_guessed_between() -> None:
    pem = _pem("PRIVATE KEY", pkcs8_of(KEYS["p256"]))
    with pytest.raises(BadRequest, match="2 private keys"):
        from_file(pem + pem, None)


def test_openssh_keys_are_named_with_the_conversion() -> None:
    pem = KEYS["ed25519"].private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with pytest.raises(BadRequest, match="ssh-keygen -p -m PKCS8"):
        from_file(pem, None)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (ec.generate_private_key(ec.SECP256K1()), "EC key on the curve secp256k1"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (dsa.generate_private_key(1024), "DSA"),
        (rsa.generate_private_key(65537, 1024), "RSA key of 1024 bits"),
    ],
)
def test_kinds_that_are_not_taken_are_named(key: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        from_file(_pem("PRIVATE KEY", pkcs8_of(key)), None)


def test_a_passphrase_for_a_plain_file_is_refused() -> None:
    with pytest.raises(BadRequest, match="not encrypted; leave the passphrase out"):
        from_file(_pem("PRIVATE KEY", pkcs8_of(KEYS["p256"])), WORD)


def test_a_key_whose_halves_differ_is_refused() -> None:
    numbers = rsa_key().private_numbers()
    content = bytearray(pkcs8_of(rsa_key()))
    at = bytes(content).index(numbers.d.to_bytes(256).lstrip(b"\0")[:32])
    content[at + 20] ^= 1
    with pytest.raises(BadRequest):
        from_file(bytes(content), None)


def test_errors_contain_nothing_of_the_file() -> None:
    secret = b"-----BEGIN PRIVATE KEY-----\nSECRETSECRETSECRET=\n-----END PRIVATE KEY-----\n"
    with pytest.raises(BadRequest) as raised:
        from_file(secret, None)
    assert "SECRET" not in raised.value.text
    assert "SECRET" not in repr(brought_keys.from_file(_pem("PRIVATE KEY", pkcs8_of(KEYS["p256"])), None))


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (bytes(range(32)), "raw"),
        (bytes(range(16)).hex().encode() + b"\n", "hex"),
        (base64.b64encode(bytes(64)), "base64"),
    ],
)
def test_symmetric_keys_are_read(content: bytes, encoding: str) -> None:
    assert len(secret_from(content, encoding)) in contents.SECRET_KEY_BYTES


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"zz", "hex", "not hex"),
        (b"A", "base64", "not base64"),
        (bytes(33), "raw", "and this one 33"),
        (b"", "raw", "this one 0"),
    ],
)
def test_what_is_no_symmetric_key_is_named(content: bytes, encoding: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        secret_from(content, encoding)
