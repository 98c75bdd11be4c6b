"""The header of an envelope: what is sealed, how, to which key, and what the caller says about it.

It is canonical JSON, readable by anyone and bound to the sealed key: an envelope with an altered header does not open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from hsmd.envelopes import canonical_json
from hsmd.errors import EnvelopeInvalid

FORMAT = "hsmd-envelope/1"
"""Name and version of the format."""
MAX_HEADER_BYTES = 4_096
MAX_MEMBERS = 32
"""Most members of `about`."""
_MEMBER = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Suite(StrEnum):
    """How the key is sealed. The hash of OAEP is also the hash of MGF1; neither is ever guessed."""

    RSA_OAEP_SHA1_KWP = "rsa-oaep-sha1-aes256-kwp"
    """For tokens whose OAEP knows nothing but SHA-1, such as SoftHSM 2.6.1."""
    RSA_OAEP_SHA256_KWP = "rsa-oaep-sha256-aes256-kwp"
    HPKE_P256 = "hpke-p256-sha256-aes256gcm"
    HPKE_X25519 = "hpke-x25519-sha256-aes256gcm"
    HPKE_MLKEM768_X25519 = "hpke-mlkem768x25519-sha256-aes256gcm"
    AES256_KWP = "aes256-kwp"
    """To a symmetric key: the sender and the recipient are the same."""

    @property
    def is_rsa(self) -> bool:
        """Whether an RSA key opens it."""
        return self in (Suite.RSA_OAEP_SHA1_KWP, Suite.RSA_OAEP_SHA256_KWP)

    @property
    def is_hpke(self) -> bool:
        """Whether HPKE opens it."""
        return self in (Suite.HPKE_P256, Suite.HPKE_X25519, Suite.HPKE_MLKEM768_X25519)


class Kind(StrEnum):
    """What is sealed."""

    PRIVATE_KEY = "private-key"
    """PrivateKeyInfo (PKCS#8) in DER."""
    SECRET_KEY = "secret-key"
    """The bytes of a symmetric key."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an envelope is about."""

    suite: Suite
    kind: Kind
    recipient: bytes
    """SHA-256 of the recipient's public key as SubjectPublicKeyInfo in DER; of a symmetric key, its check value."""
    spki: bytes = b""
    """The same of the sealed private key; empty for a symmetric key, whose digest would help to guess it."""
    about: Mapping[str, canonical_json.Value] = field(default_factory=dict)
    """The caller's members (record, owner, ...). The caller compares them with what it expects."""

    def encode(self) -> bytes:
        """The header as it stands in an envelope. Raises EnvelopeInvalid for members that it cannot have."""
        _check_about(self.about)
        members: dict[str, object] = {
            "about": self.about,
            "format": FORMAT,
            "kind": self.kind.value,
            "recipient": self.recipient.hex(),
            "suite": self.suite.value,
        }
        if self.kind is Kind.PRIVATE_KEY:
            members["spki"] = self.spki.hex()
        encoded = canonical_json.encode(members)
        if len(encoded) > MAX_HEADER_BYTES:
            raise EnvelopeInvalid(f"header of an envelope: longer than {MAX_HEADER_BYTES} bytes")
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """The header of these bytes. Raises EnvelopeInvalid unless `encode` makes exactly these bytes of it."""
        if len(data) > MAX_HEADER_BYTES:
            raise EnvelopeInvalid(f"header of an envelope: longer than {MAX_HEADER_BYTES} bytes")
        members = canonical_json.decode(data)
        if not isinstance(members, dict) or members.get("format") != FORMAT:
            raise EnvelopeInvalid(f"header of an envelope: its format is not {FORMAT}")
        kind = _choice(Kind, members.get("kind"), "kind")
        expected = {"about", "format", "kind", "recipient", "suite"}
        if kind is Kind.PRIVATE_KEY:
            expected.add("spki")
        if set(members) != expected:
            raise EnvelopeInvalid(f"header of an envelope: its members are not {', '.join(sorted(expected))}")
        return cls(
            suite=_choice(Suite, members["suite"], "suite"),
            kind=kind,
            recipient=_digest(members["recipient"], "recipient"),
            spki=_digest(members["spki"], "spki") if kind is Kind.PRIVATE_KEY else b"",
            about=_check_about(members["about"]),
        )


_Choice = TypeVar("_Choice", Suite, Kind)


def _choice(names: type[_Choice], value: object, member: str) -> _Choice:
    try:
        return names(str(value))
    except ValueError:
        raise EnvelopeInvalid(f"header of an envelope: this release does not know its {member}") from None


def _digest(value: object, member: str) -> bytes:
    if not isinstance(value, str) or not _DIGEST.match(value):
        raise EnvelopeInvalid(f"header of an envelope: {member} is not a SHA-256 in hex")
    return bytes.fromhex(value)


def _check_about(about: object) -> Mapping[str, canonical_json.Value]:
    if not isinstance(about, Mapping) or len(about) > MAX_MEMBERS:
        raise EnvelopeInvalid(f"header of an envelope: about is not an object of up to {MAX_MEMBERS} members")
    for name in about:
        if not isinstance(name, str) or not _MEMBER.match(name):
            raise EnvelopeInvalid(
                "header of an envelope: the name of a member of about is not of a-z, 0-9 and _"
            )
    return about
