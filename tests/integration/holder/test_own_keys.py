"""Management keys and transaction keys in a real SoftHSM: what is made there, opened there, and what never leaves it."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.envelopes.header import Suite
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.envelopes import ABOUT, contents, rsa_key
from tests.support.tokens import ROOT

PRELUDE = """
import base64, json, os, sys
from pathlib import Path
from pkcs11 import Attribute as A
from hsmd.envelopes.envelope import Envelope
from hsmd.errors import HsmdError
from hsmd.pkcs11 import own_keys, wrapping_probe
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import open_token
from hsmd.pkcs11.settings_file import read_token_file

token = open_token(read_token_file(Path("owner.toml"), read_write=True))
session, found = token.session, wrapping_probe.probe(token.session)
def show(*values): print(json.dumps(values))
def b64(data): return base64.b64encode(data).decode()
def raw(text): return base64.b64decode(text)
"""
ID = "00112233445566778899aabbccddeeff"


class Script:
    """Runs scripts with a session of the token, each in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token: SoftHsmToken = make_token(directory / "token", "owner")
        file = directory / "owner.toml"
        file.write_text(
            f'[token]\nmodule = "{self.token.module}"\nlabel = "owner"\npin_file = "{self.token.pin_file}"\nlock_file = "lock"\n'
        )
        file.chmod(0o600)

    def __call__(self, script: str, **given: bytes) -> Any:
        values = "".join(
            f"{name} = raw({base64.b64encode(value).decode()!r})\n" for name, value in given.items()
        )
        done = subprocess.run(
            [sys.executable, "-c", f"{PRELUDE}{values}{script}\nsys.stdout.flush(); os._exit(0)"],
            cwd=self.directory,
            env={**os.environ, **self.token.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        values_shown = msgspec.json.decode(done.stdout) if done.stdout else None
        return values_shown[0] if values_shown and len(values_shown) == 1 else values_shown


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def wrapping(script: Script) -> rsa.RSAPublicKey:
    """The public half of an RSA-3072 key that was generated in the token and only unwraps."""
    spki = script(
        f'show(b64(own_keys.generate_wrapping_key(session, "rsa", "management", bytes.fromhex("{ID}")).spki))'
    )
    key = load_der_public_key(base64.b64decode(spki))
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def spki_of(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


UNWRAPPING = f"""
half = PublicHalf.from_spki(recipient)
private = own_keys.private_key(session, bytes.fromhex("{ID}"), half)
"""


def test_a_generated_wrapping_key_only_unwraps_and_stays(script: Script, wrapping: rsa.RSAPublicKey) -> None:
    assert wrapping.key_size == 3072
    flags = script(
        UNWRAPPING
        + "names = ['UNWRAP', 'SIGN', 'DECRYPT', 'DERIVE', 'EXTRACTABLE', 'SENSITIVE', 'LOCAL', 'MODIFIABLE']\n"
        "show({name: private[A[name]] for name in names})",
        recipient=spki_of(wrapping),
    )
    assert flags == {
        "UNWRAP": True, "SIGN": False, "DECRYPT": False, "DERIVE": False, "EXTRACTABLE": False, "SENSITIVE": True,
        "LOCAL": True, "MODIFIABLE": False,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["P-256", "P-384", "RSA-2048", "Ed25519"])
def test_what_is_sealed_to_it_opens_in_this_process(
    script: Script, wrapping: rsa.RSAPublicKey, name: str
) -> None:
    """Also kinds that the token itself does not unwrap: only the AES key comes out of it."""
    envelope = seal_private_key(contents()[name], wrapping, Suite.RSA_OAEP_SHA1_KWP, ABOUT)
    opened = script(
        UNWRAPPING
        + "show(b64(own_keys.open_envelope(session, private, half.public_key, Envelope.decode(envelope), found)))",
        recipient=spki_of(wrapping),
        envelope=envelope.encode(),
    )
    assert base64.b64decode(opened) == contents()[name]


def test_an_altered_envelope_does_not_open(script: Script, wrapping: rsa.RSAPublicKey) -> None:
    encoded = seal_secret_key(bytes(32), wrapping, Suite.RSA_OAEP_SHA1_KWP, ABOUT).encode()
    for at in (len(encoded) - 400, len(encoded) - 60, len(encoded) - 1):
        altered = encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]
        said = script(
            UNWRAPPING
            + "try:\n    own_keys.open_envelope(session, private, half.public_key, Envelope.decode(envelope), found)\n"
            "    show('opened')\nexcept HsmdError as error:\n    show(error.text)",
            recipient=spki_of(wrapping),
            envelope=altered,
        )
        assert said == "the envelope does not open: it was altered, or it was not sealed to this key"


@pytest.mark.parametrize("name", ["P-256", "RSA-2048"])
def test_a_key_goes_into_the_token_without_passing_through_this_process(
    script: Script, wrapping: rsa.RSAPublicKey, name: str
) -> None:
    """Neither the private key nor the AES key is in the memory of the process that asked; a P-256 key as a control."""
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    public = load_der_private_key(contents()[name], None).public_key()
    envelope = seal_private_key(contents()[name], wrapping, Suite.RSA_OAEP_SHA1_KWP, ABOUT)
    label = f"got-{name}"
    cka_id, flags, signature, again = script(
        UNWRAPPING + f"key = PublicHalf.from_spki(expected)\n"
        f"cka_id = own_keys.unwrap_to_stay(session, private, half.public_key, Envelope.decode(envelope), key, found, {label!r})\n"
        "kept = own_keys.private_key(session, cka_id, key)\n"
        "try:\n"
        f"    own_keys.unwrap_to_stay(session, private, half.public_key, Envelope.decode(envelope), key, found, {label!r})\n"
        "    again = ''\n"
        "except HsmdError as error:\n    again = error.text\n"
        "show(b64(cka_id), {n: kept[A[n]] for n in ('SIGN', 'EXTRACTABLE', 'SENSITIVE', 'UNWRAP', 'TOKEN')},\n"
        "     b64(own_keys.sign(kept, key, b'text')), again)",
        recipient=spki_of(wrapping),
        envelope=envelope.encode(),
        expected=spki_of(public),
    )
    assert len(base64.b64decode(cka_id)) == 16
    assert flags == {"SIGN": True, "EXTRACTABLE": False, "SENSITIVE": True, "UNWRAP": False, "TOKEN": True}
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(base64.b64decode(signature), b"text", ec.ECDSA(hashes.SHA256()))
    assert again == f"the token has a private key with the label '{label}' already; choose another label"


def test_another_key_in_the_envelope_is_not_kept(script: Script, wrapping: rsa.RSAPublicKey) -> None:
    """The envelope holds the key that its header names; what is expected is another one of the same kind."""
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    envelope = seal_private_key(contents()["P-256"], wrapping, Suite.RSA_OAEP_SHA1_KWP, ABOUT)
    said, left = script(
        UNWRAPPING + "key = PublicHalf.from_spki(expected)\n"
        "try:\n"
        "    own_keys.unwrap_to_stay(session, private, half.public_key, Envelope.decode(envelope), key, found, 'wrong')\n"
        "    said = 'kept'\n"
        "except HsmdError as error:\n    said = type(error).__name__\n"
        "show(said, len(list(session.get_objects({A.LABEL: 'wrong'}))))",
        recipient=spki_of(wrapping),
        envelope=envelope.encode(),
        expected=spki_of(other),
    )
    assert (said, left) == ("EnvelopeInvalid", 0)


def test_a_p_256_pair_of_the_token_opens_and_signs(script: Script) -> None:
    derive, sign = "aa" * 16, "bb" * 16
    spki, signing = (
        base64.b64decode(each)
        for each in script(
            f'one = own_keys.generate_wrapping_key(session, "p256", "m2", bytes.fromhex("{derive}"))\n'
            f'two = own_keys.generate_signing_key(session, "m2", bytes.fromhex("{sign}"))\nshow(b64(one.spki), b64(two.spki))'
        )
    )
    wrapping, signing_key = load_der_public_key(spki), load_der_public_key(signing)
    assert isinstance(wrapping, ec.EllipticCurvePublicKey) and isinstance(
        signing_key, ec.EllipticCurvePublicKey
    )
    envelope = seal_private_key(contents()["Ed25519"], wrapping, Suite.HPKE_P256, ABOUT)
    opened, signature = script(
        "from hsmd.envelopes.sealing import open_envelope\n"
        "one, two = PublicHalf.from_spki(first), PublicHalf.from_spki(second)\n"
        f'derive = own_keys.private_key(session, bytes.fromhex("{derive}"), one)\n'
        f'sign = own_keys.private_key(session, bytes.fromhex("{sign}"), two)\n'
        "show(b64(open_envelope(Envelope.decode(envelope), own_keys.ecdh_key(derive, one.public_key))),\n"
        "     b64(own_keys.sign_p256(sign, b'a statement')))",
        first=spki,
        second=signing,
        envelope=envelope.encode(),
    )
    assert base64.b64decode(opened) == contents()["Ed25519"]
    signing_key.verify(base64.b64decode(signature), b"a statement", ec.ECDSA(hashes.SHA256()))


def test_a_pair_that_was_made_elsewhere_is_stored_for_one_use(script: Script) -> None:
    key = rsa_key(5, 3072)
    opened, flags = script(
        "from cryptography.hazmat.primitives.serialization import load_der_private_key\n"
        "key = load_der_private_key(given, None)\n"
        "own_keys.store_pair(session, key, A.UNWRAP, 'copy', b'copy-id')\n"
        "half = PublicHalf.of(key.public_key())\n"
        "private = own_keys.private_key(session, b'copy-id', half)\n"
        "show(b64(own_keys.open_envelope(session, private, half.public_key, Envelope.decode(envelope), found)),\n"
        "     {n: private[A[n]] for n in ('UNWRAP', 'SIGN', 'EXTRACTABLE')})",
        given=pkcs8_of(key),
        envelope=seal_secret_key(bytes(range(32)), key.public_key(), Suite.RSA_OAEP_SHA1_KWP, ABOUT).encode(),
    )
    assert base64.b64decode(opened) == bytes(range(32))
    assert flags == {"UNWRAP": True, "SIGN": False, "EXTRACTABLE": False}


def pkcs8_of(key: Any) -> bytes:
    from tests.support.envelopes import pkcs8

    return pkcs8(key)


def test_an_extractable_key_of_the_token_is_sealed_there(script: Script) -> None:
    """A deposit of a token's key: wrapped in the token for an RSA key elsewhere, and opened with that."""
    recipient = rsa_key(5, 3072)
    spki, encoded, refusals = script(
        "from hsmd.algorithms import KeyType\n"
        "from hsmd.envelopes.header import Suite\n"
        "from hsmd.pkcs11 import templates, wrapping\n"
        "public, private, half = own_keys.generate_for_deposit(session, KeyType.P256)\n"
        "sealed = wrapping.seal_private_key(session, private, half, PublicHalf.from_spki(recipient), Suite.RSA_OAEP_SHA1_KWP,\n"
        "    {'purpose': 'vault-deposit'}, found, own_keys.prove)\n"
        "refusals = []\n"
        "for label in ('management', 'nothing'):\n"
        "    try:\n        own_keys.find_extractable(session, label)\n"
        "    except HsmdError as error:\n        refusals.append(error.text)\n"
        "show(b64(half.spki), b64(sealed.encode()), refusals)",
        recipient=spki_of(recipient.public_key()),
    )
    from hsmd.envelopes.envelope import Envelope
    from hsmd.holder.brought_keys import from_pkcs8

    opened = open_envelope(Envelope.decode(base64.b64decode(encoded)), recipient)
    assert from_pkcs8(opened).spki == base64.b64decode(spki)
    assert "does not let the key 'management' leave it" in refusals[0]
    assert "no private key with the label 'nothing'" in refusals[1]
