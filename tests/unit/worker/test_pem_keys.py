"""Private keys in files: what a bad or weak file is called, and which numbers a good key has."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
from collections.abc import Callable
from functools import cache
from math import gcd, lcm, prod
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import pem as asn1_pem
from asn1crypto.keys import EncryptedPrivateKeyInfo
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from pkcs11 import Attribute

from hsmd.daemon.worker import weak_keys
from hsmd.daemon.worker.pem_keys import read_private_key
from hsmd.errors import BadRequest
from tests.support import der

PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")
ED25519_ALGORITHM = bytes.fromhex("300506032b6570")
P256_OID = bytes.fromhex("06082a8648ce3d030107")
EC_ALGORITHM = bytes.fromhex("301306072a8648ce3d0201") + P256_OID
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(document: bytes, label: str = "PRIVATE KEY") -> bytes:
    return der.pem(label, document).encode()


def written(private: Any, form: PrivateFormat = PKCS8, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    made: bytes = private.private_bytes(Encoding.PEM, form, encryption)
    return made


def octets(content: bytes) -> bytes:
    return der.tlv(0x04, content)


def pkcs8(algorithm: bytes, content: bytes, *more: bytes, version: int = 0) -> bytes:
    return der.sequence(der.integer(version), algorithm, octets(content), *more)


def ed25519_file(seed: bytes, *more: bytes, version: int = 0) -> bytes:
    return pem(pkcs8(ED25519_ALGORITHM, octets(seed), *more, version=version))


def ec_file(value: bytes, *more: bytes, algorithm: bytes = EC_ALGORITHM) -> bytes:
    return pem(pkcs8(algorithm, der.sequence(der.integer(1), octets(value), *more)))


def rsa_file(**changes: int) -> bytes:
    numbers = rsa_key().private_numbers()
    values = {
        "version": 0,
        "n": numbers.public_numbers.n,
        "e": numbers.public_numbers.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "inverse": numbers.iqmp,
    } | changes
    return pem(der.sequence(*map(der.integer, values.values())), "RSA PRIVATE KEY")


def rsa_of(p: int, q: int, e: int = 65537, d: int = 0) -> bytes:
    d = d or pow(e, -1, lcm(p - 1, q - 1))
    values = (0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    return pem(der.sequence(*map(der.integer, values)), "RSA PRIVATE KEY")


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def refusal(content: bytes, passphrase: bytes | None = None, *, accept_weak: bool = False) -> str:
    with pytest.raises(BadRequest) as raised:
        read_private_key(content, passphrase, accept_weak=accept_weak)
    assert str(raised.value).count("; ") >= 1, "it names the next step"
    return raised.value.text


def random_bytes(count: int) -> bytes:
    return random.Random(7).randbytes(count)


# --- structure and numbers ---

SEED = random_bytes(32)
OTHER_SEED = random_bytes(64)[32:]
D = int.from_bytes(SEED) % P256_ORDER


def point(d: int, *, at: int = 0xA1) -> bytes:
    public = ec.derive_private_key(d, ec.SECP256R1()).public_key().public_numbers()
    coordinates = b"\x04" + public.x.to_bytes(32) + public.y.to_bytes(32)
    return der.tlv(at, der.bit_string(coordinates))


def v2_public(seed: bytes) -> bytes:
    return der.tlv(
        0x81, b"\0" + ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    )


SOUND = [
    pytest.param(lambda: ed25519_file(SEED), id="ed25519"),
    pytest.param(lambda: ed25519_file(SEED, v2_public(SEED), version=1), id="ed25519, version 2"),
    pytest.param(lambda: ec_file(D.to_bytes(32)), id="p-256 without its point"),
    pytest.param(lambda: ec_file(D.to_bytes(32), point(D)), id="p-256"),
    pytest.param(rsa_file, id="rsa"),
]
BROKEN = [
    *((lambda size=size: ed25519_file(random_bytes(size)), f"has 32 bytes, and this one has {size}", f"ed25519 of {size}") for size in (0, 31, 33, 64)),
    (lambda: pem(pkcs8(ED25519_ALGORITHM, SEED)), "damaged", "ed25519 seed that is not wrapped"),
    (lambda: ed25519_file(SEED, v2_public(OTHER_SEED), version=1), "belongs to another private key", "v2 with another key"),
    (lambda: ed25519_file(SEED, v2_public(SEED)), "a version that has none", "v1 with a public key"),
    (lambda: ed25519_file(SEED, version=2), "unknown version", "v3"),
    (lambda: pem(pkcs8(bytes.fromhex("300706032b65700500"), octets(SEED))), "Ed25519 with parameters", "ed25519 parameters"),
    (lambda: pem(pkcs8(bytes.fromhex("301306092a864886f70d010101") + P256_OID, rsa_der())), "damaged", "rsa with a curve"),
    (lambda: pem(pkcs8(bytes.fromhex("300906072a8648ce3d0201"), ec_inner(D))), "does not name its curve", "ec without a curve"),
    (lambda: ec_file(D.to_bytes(33)), "33 bytes, and 32 are right", "ec too long"),
    (lambda: ec_file(SEED[:31]), "31 bytes, and 32 are right", "ec too short"),
    (lambda: ec_file(bytes(32)), "between 1 and the order", "ec zero"),
    (lambda: ec_file(P256_ORDER.to_bytes(32)), "between 1 and the order", "ec order"),
    (lambda: ec_file(b"\xff" * 32), "between 1 and the order", "ec above the order"),
    (lambda: ec_file(D.to_bytes(32), point(D - 1)), "belongs to another private key", "ec point"),
    (lambda: ec_file(D.to_bytes(32), der.tlv(0xA0, bytes.fromhex("06052b81040022"))), "two different curves", "two curves"),
    (lambda: rsa_file(n=rsa_key().private_numbers().public_numbers.n + 2), "not the product", "rsa n"),
    (lambda: rsa_file(d=rsa_key().private_numbers().d + 2), "private exponent does not fit", "rsa d"),
    (lambda: rsa_file(dp=rsa_key().private_numbers().dmp1 + 2), "CRT exponents do not fit", "rsa dp"),
    (lambda: rsa_file(dq=rsa_key().private_numbers().dmq1 - 2), "CRT exponents do not fit", "rsa dq"),
    (lambda: rsa_file(inverse=3), "CRT coefficient", "rsa coefficient"),
    (lambda: rsa_file(p=0, q=0, dp=0, dq=0, inverse=0), "are missing", "rsa without CRT"),
    (lambda: rsa_file(e=65536), "not odd", "rsa even e"),
    (lambda: rsa_file(e=1), "not odd and greater than 1", "rsa e one"),
    (lambda: pem(rsa_der()[:-9], "RSA PRIVATE KEY"), "damaged", "rsa truncated"),
    (lambda: pem(rsa_der() + b"\0\0", "RSA PRIVATE KEY"), "bytes where none may follow", "rsa trailing"),
    (lambda: pem(pkcs8(RSA_ALGORITHM, rsa_der()) + b"\0"), "bytes where none may follow", "pkcs8 trailing"),
    (lambda: pem(pkcs8(RSA_ALGORITHM, rsa_der() + b"\0")), "bytes where none may follow", "trailing inside"),
    (lambda: pem(b""), "damaged", "nothing"),
    (lambda: pem(b"\x30\x80\x02\x01\0\0\0"), "damaged", "indefinite length"),
]  # fmt: skip


def rsa_der() -> bytes:
    made: bytes = rsa_key().private_bytes(Encoding.DER, TRADITIONAL, NoEncryption())
    return made


def ec_inner(d: int) -> bytes:
    return der.sequence(der.integer(1), octets(d.to_bytes(32)))


@pytest.mark.parametrize("make", SOUND)
def test_sound_keys_are_read(make: Callable[[], bytes]) -> None:
    assert read_private_key(make(), None).weaknesses == []


@pytest.mark.parametrize(
    ("make", "reason"), [pytest.param(make, reason, id=name) for make, reason, name in BROKEN]
)
def test_keys_whose_parts_do_not_fit_are_refused(make: Callable[[], bytes], reason: str) -> None:
    text = refusal(make(), accept_weak=True)
    assert reason in text
    assert text.startswith("pem: the private key is damaged") or "Ed25519 key has" in text


# --- other kinds of keys ---


def multi_prime() -> bytes:
    return openssl("genrsa", "-primes", "3", "2048")


OTHERS = [
    (lambda: written(dsa.generate_private_key(1024)), "a DSA key"),
    (lambda: openssl("genpkey", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"), "a Diffie-Hellman key"),
    (lambda: written(x25519.X25519PrivateKey.generate()), "an X25519 key"),
    (lambda: written(x448.X448PrivateKey.generate()), "an X448 key"),
    (lambda: written(ed448.Ed448PrivateKey.generate()), "an Ed448 key"),
    (lambda: written(ec.generate_private_key(ec.SECP256K1())), "on the curve secp256k1"),
    (lambda: openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:sect283k1"), "on the curve sect283k1"),
    (lambda: openssl("ecparam", "-name", "sect283k1", "-genkey"), "on the curve sect283k1"),
    (lambda: openssl("genpkey", "-algorithm", "SM2"), "on the curve SM2"),
    (lambda: written(rsa.generate_private_key(65537, 1024)), "an RSA key with 1024 bits"),
    (multi_prime, "RSA key with 3 primes"),
    (lambda: openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"), "an RSA-PSS key"),
    (lambda: openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"), "by parameters instead of a name"),
    (lambda: openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit"), "by parameters instead of a name"),
    (lambda: pem(pkcs8(bytes.fromhex("300506032a0304"), b"\0")), "algorithm 1.2.3.4"),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("make", "name"), OTHERS)
def test_other_keys_are_called_by_their_names(make: Callable[[], bytes], name: str) -> None:
    text = refusal(make(), accept_weak=True)
    assert name in text
    assert "damaged" not in text


@pytest.mark.parametrize(
    ("key_type", "first_line"), [("ecdsa", "PRIVATE KEY"), ("ed25519", "OPENSSH PRIVATE KEY")]
)
def test_ssh_keygen_converts_what_the_advice_says(tmp_path: Path, key_type: str, first_line: str) -> None:
    file = tmp_path / "copy"
    subprocess.run(["ssh-keygen", "-q", "-t", key_type, "-N", "", "-f", file], check=True)
    (advised,) = re.findall("`ssh-keygen (.*) -f COPY`", refusal(file.read_bytes()))
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", *advised.split(), "-f", file], check=True, capture_output=True
    )
    assert file.read_text().startswith(f"-----BEGIN {first_line}-----")


def test_no_command_is_advised_that_keeps_an_rsa_pss_key_what_it_is() -> None:
    text = refusal(openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"))
    assert "make a new key of plain RSA" in text
    assert "openssl rsa" not in text


def test_an_encrypted_rsa_pss_key_is_recognised() -> None:
    plain = openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048")
    encrypted = openssl("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:sesame", given=plain)
    assert "an RSA-PSS key" in refusal(encrypted, b"sesame")


# --- files ---


def good() -> bytes:
    return written(rsa_key(), TRADITIONAL)


def encrypted() -> bytes:
    return written(rsa_key(), PKCS8, b"sesame")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"  \t\n"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"  " + text.replace(b"\n", b"\n  "),
        lambda text: b"subject=CN = x\n\n" + text + b"the end\n",
        lambda text: text.rstrip(b"\n"),
        lambda text: text + pem(b"\x30\0", "CERTIFICATE"),
    ],
)
def test_white_space_and_text_around_a_key_do_not_matter(change: Callable[[bytes], bytes]) -> None:
    expected = rsa_key().private_numbers().d.to_bytes(256).lstrip(b"\0")
    read = read_private_key(change(good()), None)
    assert read.attributes[Attribute.PRIVATE_EXPONENT] == expected
    assert read_private_key(change(encrypted()), b"sesame").half == read.half


@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL])
@pytest.mark.parametrize(
    "options", [("-v1", "PBE-SHA1-3DES"), ("-v2", "des3"), ("-v2", "aes-128-cbc"), ("-scrypt",)]
)
def test_encrypted_keys_are_read(form: PrivateFormat, options: tuple[str, ...]) -> None:
    content = openssl("pkcs8", "-topk8", *options, "-passout", "pass:sesame", given=good())
    if form is TRADITIONAL:
        content = written(rsa_key(), TRADITIONAL, b"sesame")
    assert read_private_key(content, b"sesame").half.public_key == rsa_key().public_key()
    assert "it is wrong" in refusal(content, b"wrong")


FILES = [
    (b"", "empty"),
    (b"hello", "not PEM"),
    (b"\xff\xfe-\0-\0", "UTF-16"),
    (b"-----BEGIN PRIVATE KEY-----\nMAA=\n", "no matching END line"),
    (b"-----BEGIN PRIVATE KEY-----\nM!A=\n-----END PRIVATE KEY-----\n", "not valid base64"),
    (pem(b"\x30\0", "CERTIFICATE"), "CERTIFICATE and no private key"),
    (pem(b"\x30\0", "CERTIFICATE REQUEST"), "a certificate request"),
    (pem(b"\x30\0", "PUBLIC KEY"), "PUBLIC KEY and no private key"),
    (pem(b"\x30\0", "OPENSSH PRIVATE KEY"), "make a new key in place of an Ed25519 key"),
    (pem(b"\x30\0", "DH PARAMETERS"), "Diffie-Hellman parameters"),
    (pem(b"\x30\0", "DSA PRIVATE KEY"), "a DSA private key"),
    (pem(b"\x30\0", "HSMD KEY REFERENCE"), "nothing to import"),
    (bytes.fromhex("30820a000201033082"), "openssl pkcs12"),
    (bytes.fromhex("3082"), "this is DER"),
    (bytes.fromhex("feedfeed0000"), "Java key store"),
    (b"PuTTY-User-Key-File-3: ssh-rsa", "puttygen"),
    (b"ssh-ed25519 AAAA", "OpenSSH public key"),
    (b'{"kty":"RSA"}', "JSON"),
    (b"x" * 70_000, "larger than"),
]


@pytest.mark.parametrize(("content", "reason"), FILES, ids=[reason for _, reason in FILES])
def test_other_files_are_called_by_their_names(content: bytes, reason: str) -> None:
    assert reason in refusal(content)


def test_several_keys_in_a_file_are_refused() -> None:
    assert "2 private keys" in refusal(good() + written(ec.generate_private_key(ec.SECP256R1())))
    assert "3 private keys" in refusal(good() * 3)


@pytest.mark.parametrize(
    ("passphrase", "reason"),
    [
        (b"", "passphrase file is empty"),
        (None, "is encrypted"),
        (b"\xef\xbb\xbfsesame", "byte order mark"),
        (b"sesame\nmore", "more than one line"),
        (b"sesame ", "white space"),
    ],
)
def test_wrong_passphrases_say_what_may_be_wrong(passphrase: bytes | None, reason: str) -> None:
    assert reason in refusal(encrypted(), passphrase)
    if passphrase is not None:
        assert ("is empty" if not passphrase else "is not encrypted") in refusal(good(), passphrase)


def test_a_wrong_passphrase_that_leaves_right_padding_is_called_wrong() -> None:
    """One wrong passphrase in 256 does; here it is the passphrase of a document that holds no key."""
    passphrase = b"sesame "
    document = written(ed25519.Ed25519PrivateKey.generate(), PKCS8, passphrase)
    info = EncryptedPrivateKeyInfo.load(asn1_pem.unarmor(document)[2])
    used = info["encryption_algorithm"]
    key = hashlib.pbkdf2_hmac(used.kdf_hmac, passphrase, used.kdf_salt, used.kdf_iterations, used.key_length)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(used.encryption_iv)).encryptor()
    info["encrypted_data"] = encryptor.update(random_bytes(47) + b"\1")
    reason = refusal(pem(info.dump(), "ENCRYPTED PRIVATE KEY"), passphrase)
    assert reason.startswith("passphrase: it is wrong (the passphrase file has white space")


# --- weak keys ---


# Reading a key checks that its primes are prime; the numbers added here were searched once.


def random_number(bits: int) -> int:
    return random.Random(bits).getrandbits(bits) | 3 << bits - 2


P = random_number(1024) + 273
Q = (random_number(1020) << 4) + 439
SMOOTH = int(
    "bfeb3150581d1e90972254ae2f2d1a72018eba218ecbe5fc5e1fe4b2f727a3bf0b5646dd43d890d91cdb7cdc5d7fa8248fe2e017c2dad395"
    "d601a8ce08c10b549a2986f5e6068fbc36095d8a92d07c279aff9105bd022047444e2f37853b6b5f41bde072882bdbd335cfcb7604100bf6"
    "1b37f2b3ba8b93ef604431d0cd9d6559", 16,
)  # fmt: skip


def roca_prime(above: int, steps: int) -> int:
    """A prime as the faulty chips make them: a multiple of a primorial and a power of 65537."""
    modulus = prod((2, *weak_keys._ROCA_PRIMES))
    return (above // modulus + steps) * modulus + pow(65537, above.bit_length(), modulus)


def small_d() -> bytes:
    d = (1 << 500) + 1
    while gcd(d, (P - 1) * (Q - 1)) != 1:
        d += 2
    return rsa_of(P, Q, pow(d, -1, lcm(P - 1, Q - 1)), d)


WEAK = [
    (lambda: written(rsa.generate_private_key(3, 2048)), ["public exponent is small (3)"]),
    (lambda: rsa_of(P, P + (1 << 900) + 1588), ["close to each other"]),
    (small_d, ["more than 256 bits", "private exponent is small"]),
    (lambda: rsa_of(roca_prime(7 << 1021, 41), roca_prime(13 << 1020, 27)), ["ROCA"]),
    (lambda: rsa_of(SMOOTH, P), ["Pollard"]),
    (lambda: rsa_of((3 << 1022) + (0x77 << 300) + 381, P), ["has a pattern"]),
    (lambda: rsa_of(random_number(700) + 736, random_number(1348) + 177), ["much shorter"]),
    (lambda: ec_file((1).to_bytes(32)), ["private value is small", "pattern"]),
    (lambda: ec_file((P256_ORDER - 5).to_bytes(32)), ["private value is small"]),
    (lambda: ec_file(bytes(12) + SEED[:20]), ["private value is small", "pattern"]),
    (lambda: ec_file(bytes(range(32))), ["pattern"]),
    (lambda: ed25519_file(bytes(32)), ["pattern"]),
    (lambda: ed25519_file(SEED[:8] * 4), ["pattern"]),
]


@pytest.mark.parametrize(("make", "reasons"), WEAK)
def test_weak_keys_are_refused_unless_accepted(make: Callable[[], bytes], reasons: list[str]) -> None:
    content = make()
    text = refusal(content)
    assert text.startswith("pem: the key is weak: ")
    assert "--accept-weak" in text
    assert all(reason in text for reason in reasons)
    accepted = read_private_key(content, None, accept_weak=True).weaknesses
    assert all(any(reason in each for each in accepted) for reason in reasons)


def test_honest_keys_are_not_weak() -> None:
    for _ in range(20):
        assert read_private_key(written(ec.generate_private_key(ec.SECP384R1())), None).weaknesses == []
        assert read_private_key(written(ed25519.Ed25519PrivateKey.generate()), None).weaknesses == []
    assert read_private_key(rsa_of(P, Q), None).weaknesses == []
    assert read_private_key(written(rsa_key(), PKCS8), None).weaknesses == []
