"""What a peer may send before its login: keys and certificates that cost much are refused before any arithmetic on them."""

from __future__ import annotations

import random
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import MPInt, String

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.rules import Rule
from hsmd.daemon.front.access.snapshot import Denial
from hsmd.daemon.front.ssh import credentials
from hsmd.daemon.front.ssh.credentials import OVERSIZED, UNREADABLE, identify
from hsmd.daemon.front.ssh.key_blobs import fingerprint_of, is_bounded, is_certificate, keys_of_certificate
from hsmd.daemon.front.ssh.public_key_lines import parse_public_key
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role
from tests.support.ssh_peer import certificate

CA, KEY = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_ODD = random.Random(8).getrandbits(3_072) | 1 << 3_071 | 1


def rsa(exponent: int = 65_537, modulus: int = _ODD) -> Any:
    """A public key of these numbers."""
    blob = String("ssh-rsa") + MPInt(exponent) + MPInt(modulus)
    return asyncssh.public_key.decode_ssh_public_key(blob)


HUGE = rsa(exponent=_ODD - 2)
"""One verification with it takes milliseconds."""
LONG = rsa(modulus=1 << 20_000 | 1)


class Identities:
    """Trusts a CA for the client `web`, and knows keys of it."""

    def __init__(self, *keys: Any, ca: Any = CA) -> None:
        self._keys = {key.get_fingerprint() for key in keys}
        self._ca = ca.get_fingerprint()

    def identify_key(self, user_name: str, fingerprint: str) -> Identity | None:
        known = user_name == "web" and fingerprint in self._keys
        return Identity("web", frozenset({Role.FRONT_END}), KeyCredential(fingerprint)) if known else None

    def why_not_identified(self, user_name: str, fingerprint: str) -> str:
        return "unknown"

    def refuse_ca(self, user_name: str, ca_fingerprint: str) -> Denial | None:
        return None if (user_name, ca_fingerprint) == ("web", self._ca) else Denial(Rule.UNKNOWN_CA)

    def identify_certificate(self, user_name: str, **found: Any) -> Identity:
        return Identity(user_name, frozenset({Role.FRONT_END}), KeyCredential(found["key_fingerprint"]))


def under(ca: Any, *, certified: Any = KEY) -> bytes:
    """A certificate that names `ca` as its issuer, and that is not signed."""
    _, blob = certificate(CA, certified, ["web"])
    made: bytes = blob[: blob.rindex(String(CA.public_data))] + String(ca.public_data)
    if certified is not KEY:
        nonce = made[36:72]
        assert nonce[:4] == b"\0\0\0\x20"
        made = made.replace(
            String("ssh-ed25519-cert-v01@openssh.com") + nonce + String(certified.public_data[-32:]),
            String("ssh-rsa-cert-v01@openssh.com") + nonce + certified.public_data[len(String("ssh-rsa")) :],
        )
    return made + String(String("ssh-rsa") + String(b"\1" * 384))


def who(identities: Identities, blob: bytes) -> Identity | str:
    return identify(identities, "web", blob, "192.0.2.1")  # type: ignore[arg-type]


@pytest.fixture
def no_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncssh verifies a certificate's signature as it decodes it; here decoding fails the test."""

    def decode(blob: bytes) -> None:
        pytest.fail("a certificate was verified")

    monkeypatch.setattr(credentials.asyncssh.public_key, "decode_ssh_certificate", decode)


@pytest.mark.parametrize("ca", [HUGE, LONG, KEY], ids=["huge exponent", "huge modulus", "any"])
@pytest.mark.usefixtures("no_arithmetic")
def test_nothing_is_verified_with_a_ca_that_is_not_trusted(ca: Any) -> None:
    assert who(Identities(), under(ca)) == Rule.UNKNOWN_CA.value


@pytest.mark.parametrize("ca", [HUGE, LONG], ids=["huge exponent", "huge modulus"])
@pytest.mark.usefixtures("no_arithmetic")
def test_a_trusted_ca_whose_key_is_too_long_is_not_used(ca: Any) -> None:
    assert who(Identities(ca=ca), under(ca)) == OVERSIZED


@pytest.mark.parametrize("key", [HUGE, LONG], ids=["huge exponent", "huge modulus"])
@pytest.mark.usefixtures("no_arithmetic")
def test_a_certified_key_that_is_too_long_is_refused(key: Any) -> None:
    assert who(Identities(), under(CA, certified=key)) == OVERSIZED


def test_a_good_certificate_is_verified_and_identified() -> None:
    _, good = certificate(CA, KEY, ["web"])
    found = who(Identities(), good)
    assert isinstance(found, Identity) and found.credential.text == KEY.get_fingerprint()
    assert who(Identities(), under(CA)) == UNREADABLE, "the signature of the CA is missing"


@pytest.mark.parametrize("key", [HUGE, LONG], ids=["huge exponent", "huge modulus"])
def test_a_known_key_that_is_too_long_is_refused(key: Any) -> None:
    assert who(Identities(key), key.public_data) == OVERSIZED
    assert who(Identities(), key.public_data) == "unknown"
    with pytest.raises(BadRequest, match="at most 16384 bits"):
        parse_public_key("public_key", key.export_public_key("openssh").decode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_is_recognised_as_asyncssh_recognises_it(kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    blob = key.public_data
    assert fingerprint_of(blob) == key.get_fingerprint()
    assert is_bounded(blob) and not is_certificate(blob)
    assert isinstance(who(Identities(key), blob), Identity)
    made = key.generate_user_certificate(key, "id", principals=["web"])
    assert is_certificate(made.public_data)
    assert keys_of_certificate(made.public_data) == (True, blob)


@pytest.mark.parametrize("kind", ["ssh-dss", "ssh-ed448"])
def test_other_types_are_not_used(kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    assert not is_bounded(key.public_data)
    made = key.generate_user_certificate(key, "id", principals=["web"])
    assert is_certificate(made.public_data)
    assert who(Identities(ca=key), made.public_data) == UNREADABLE


def test_every_shortened_blob_is_refused() -> None:
    _, good = certificate(CA, KEY, ["web"])
    for length in range(len(good)):
        assert isinstance(who(Identities(KEY), good[:length]), str)
    for length in range(len(KEY.public_data)):
        assert isinstance(who(Identities(KEY), KEY.public_data[:length]), str)
        assert not is_bounded(KEY.public_data[:length])
