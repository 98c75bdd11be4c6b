"""Importing private keys from PEM files, on the token's own host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsmd.algorithms import KeyType, schemes_for
from hsmd.daemon.ipc.key_import import import_key
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import BadRequest, Conflict
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.purposes import Purpose
from tests.support.signatures import verify
from tests.support.tls_bytes import SERVER_KEY_EXCHANGE
from tests.support.tokens import in_token, settings_of

PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL


def run(
    token: SoftHsmToken,
    directory: Path,
    pem: bytes,
    passphrase: bytes | None = None,
    purposes: tuple[str, ...] = ("tls-server",),
) -> KeyDescription:
    (directory / "key.pem").write_bytes(pem)
    if passphrase is not None:
        (directory / "passphrase").write_bytes(passphrase)
    return import_key(
        settings_of(token, control=True),
        environment=token.environment,
        pem=directory / "key.pem",
        passphrase=None if passphrase is None else directory / "passphrase",
        name="imported",
        purposes=list(purposes),
    )


def pem_of(private: Any, form: PrivateFormat = PKCS8, passphrase: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    pem: bytes = private.private_bytes(Encoding.PEM, form, encryption)
    return pem


def block(label: str) -> bytes:
    return f"-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n".encode()


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_every_type_and_form(token: SoftHsmToken, start, tmp_path: Path) -> None:
    cases = [
        (rsa_key(), TRADITIONAL, None, b""),
        (rsa_key(), PKCS8, b"sesame", b""),
        (rsa_key(), TRADITIONAL, b"sesame", b""),
        (rsa.generate_private_key(65537, 3072), PKCS8, None, b""),
        (ec.generate_private_key(ec.SECP256R1()), TRADITIONAL, None, b""),
        (ec.generate_private_key(ec.SECP384R1()), PKCS8, b"sesame", b""),
        (ec.generate_private_key(ec.SECP521R1()), PKCS8, None, block("EC PARAMETERS")),
        (ed25519.Ed25519PrivateKey.generate(), PKCS8, None, b"Bag Attributes\n  friendlyName: x\n"),
    ]
    made = []
    for private, form, passphrase, before in cases:
        pem = (before + pem_of(private, form, passphrase)).replace(b"\n", b"\r\n" if before else b"\n")
        made.append(run(token, tmp_path, pem, passphrase and passphrase + b"\n"))
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert made[-1].public_key == spki
    worker = start(token).ready()
    for key in made:
        scheme = schemes_for(KeyType(key.key_type))[0]
        signature = worker.use(Purpose.TLS12_SERVER, scheme, bytes.fromhex(key.key), SERVER_KEY_EXCHANGE)
        verify(key.public_key, scheme, signature, SERVER_KEY_EXCHANGE)


@pytest.mark.parametrize(
    ("purpose", "uses"),
    [
        ("tls-server", ["SIGN", "VERIFY"]),
        ("tls12-rsa-premaster", ["DECRYPT", "ENCRYPT"]),
        ("unwrap-key", ["UNWRAP", "WRAP"]),
    ],
)
def test_both_halves_of_an_imported_key_have_one_use(
    fresh_token: SoftHsmToken, tmp_path: Path, purpose: str, uses: list[str]
) -> None:
    """A token gives a public key the uses that its template leaves out; SoftHSM all of them."""
    run(fresh_token, tmp_path, pem_of(rsa_key()), purposes=(purpose,))
    script = """
key, = list(session.get_objects({A.CLASS: C.PRIVATE_KEY}))
public, = list(session.get_objects({A.CLASS: C.PUBLIC_KEY}))
show([[name for name in names if bool(item[getattr(A, name)])] for item, names in (
    (key, ("SIGN", "SIGN_RECOVER", "DECRYPT", "UNWRAP", "DERIVE")), (public, ("VERIFY", "ENCRYPT", "WRAP")))])
"""
    assert in_token(fresh_token, script) == [[uses[0]], [uses[1]]]


def test_an_imported_key_cannot_be_read_and_has_its_ceiling(
    fresh_token: SoftHsmToken, tmp_path: Path
) -> None:
    made = run(fresh_token, tmp_path, pem_of(rsa_key()), purposes=("tls12-rsa-premaster",))
    assert made.purposes == ["tls12-rsa-premaster"]
    script = """
key, = list(session.get_objects({A.CLASS: C.PRIVATE_KEY}))
public, = list(session.get_objects({A.CLASS: C.PUBLIC_KEY}))
names = ("PRIVATE", "SENSITIVE", "EXTRACTABLE", "MODIFIABLE", "COPYABLE", "SIGN", "DECRYPT", "UNWRAP", "DERIVE")
hidden = []
for attribute in (A.PRIVATE_EXPONENT, A.PRIME_1, A.COEFFICIENT):
    try:
        key[attribute]
    except pkcs11.AttributeSensitive:
        hidden.append(attribute.name)
show([{name: bool(key[getattr(A, name)]) for name in names}, hidden, bool(public[A.MODIFIABLE])])
"""
    attributes, hidden, public_modifiable = in_token(fresh_token, script)
    assert attributes == {
        "PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False, "MODIFIABLE": False, "COPYABLE": False,
        "SIGN": False, "DECRYPT": True, "UNWRAP": False, "DERIVE": False,
    }  # fmt: skip
    assert hidden == ["PRIVATE_EXPONENT", "PRIME_1", "COEFFICIENT"]
    assert not public_modifiable


def test_a_key_is_imported_once(fresh_token: SoftHsmToken, tmp_path: Path) -> None:
    pem = pem_of(rsa_key())
    run(fresh_token, tmp_path, pem)
    with pytest.raises(Conflict, match="already"):
        run(fresh_token, tmp_path, pem, purposes=("tls12-rsa-premaster",))
    count = in_token(fresh_token, "show(len(list(session.get_objects({A.CLASS: C.PRIVATE_KEY}))))")
    assert count == 1, "the same key twice would get round its ceiling"


@pytest.mark.parametrize(
    ("make", "passphrase", "fix"),
    [
        (lambda: pem_of(rsa_key()), b"sesame", "not encrypted"),
        (lambda: block("HSMD KEY REFERENCE"), None, "nothing to import"),
        (lambda: b"x" * 70_000, None, "larger than"),
        (lambda: SHORT_ED25519, None, "has 32 bytes, and this one has 31"),
    ],
)
def test_the_worker_reports_what_is_wrong_with_a_file(
    token: SoftHsmToken, tmp_path: Path, capfd, make, passphrase: bytes | None, fix: str
) -> None:
    """tests/unit/worker/test_pem_keys.py has all kinds of bad files."""
    with pytest.raises(BadRequest, match=fix):
        run(token, tmp_path, make(), passphrase)
    assert capfd.readouterr().err == "", "no traceback"


SHORT_ED25519 = (
    b"-----BEGIN PRIVATE KEY-----\nMC0CAQAwBQYDK2VwBCEEHwABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhsc\nHR4=\n"
    b"-----END PRIVATE KEY-----\n"
)


@pytest.mark.parametrize("named", ["pem", "passphrase"])
def test_a_named_pipe_or_a_directory_is_refused_and_does_not_hang(
    token: SoftHsmToken, tmp_path: Path, named: str
) -> None:
    files = {"pem": tmp_path / "key.pem", "passphrase": tmp_path / "words"}
    for path in files.values():
        path.write_bytes(pem_of(rsa_key()))
    for make, what in ((os.mkfifo, "a named pipe"), (os.mkdir, "a directory")):
        made = tmp_path / make.__name__
        make(made)
        with pytest.raises(BadRequest, match=f"{named}: .* cannot be read: it is {what}"):
            import_key(
                settings_of(token, control=True),
                environment=token.environment,
                name="never",
                purposes=["tls-server"],
                **(files | {named: made}),
            )


def test_a_ceiling_that_no_key_may_have_is_refused(token: SoftHsmToken, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="signs or decrypts"):
        run(token, tmp_path, pem_of(rsa_key()), purposes=("tls-server", "tls12-rsa-premaster"))
