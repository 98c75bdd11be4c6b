"""Signed notes as C2SP signed-note defines them: a text, and lines with signatures over it.

Signature types are 0x01 (Ed25519) and 0x02 (ECDSA P-256 with SHA-256, ASN.1 DER).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hsmd.errors import ProofInvalid, ProtocolError

MAX_NOTE_BYTES = 131_072
"""Room for the 16 signatures of nearly 5 kB, in base64, that C2SP signed-note wants a verifier to accept."""
MAX_SIGNATURES = 100
KEY_ID_BYTES = 4
_DASH = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_VKEY = re.compile(r"(?P<name>[^+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)\Z")


class SignatureType(IntEnum):
    """Types of signature of C2SP signed-note that are supported."""

    ED25519 = 0x01
    ECDSA = 0x02


class Signature(NamedTuple):
    """One signature line: the signer (`name`, and the 4 bytes of `key_id`) and the signature itself."""

    name: str
    key_id: bytes
    signature: bytes

    @classmethod
    def decode(cls, name: str, encoded: str) -> Signature:
        """The signature from the name on its line and the base64 after it. Raises ProtocolError."""
        raw = _strict_base64(encoded)
        if not _is_name(name) or len(raw) <= KEY_ID_BYTES:
            raise ProtocolError("not a signature: it has a name, and key id and signature in base64")
        return cls(name, raw[:KEY_ID_BYTES], raw[KEY_ID_BYTES:])

    @property
    def encoded(self) -> str:
        """The part of the line after the name: base64 of key id and signature."""
        return base64.b64encode(self.key_id + self.signature).decode()


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signatures. The text ends in a line feed; its lines may hold any printable characters."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str | bytes) -> Note:
        """The note in its written form. Raises ProtocolError if it is not a note."""
        written = _text(note)
        if not _well_formed(written):
            raise ProtocolError("not a signed note: it has control characters")
        text, separator, lines = written.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise ProtocolError("not a signed note: no signature lines at its end")
        signature_lines = lines.removesuffix("\n").split("\n")
        if len(signature_lines) > MAX_SIGNATURES:
            raise ProtocolError(f"not a signed note: more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(_parse_signature(line) for line in signature_lines))

    def render(self) -> str:
        """The note in its written form."""
        lines = [f"{_DASH}{signature.name} {signature.encoded}\n" for signature in self.signatures]
        return "".join([self.text, "\n", *lines])


def to_be_signed(text: str) -> bytes:
    """The bytes that a signature of a note covers. Raises ProtocolError unless it can be the text of a note."""
    if not text.endswith("\n") or not _well_formed(text):
        raise ProtocolError("the text of a note ends in a line feed and has no other control characters")
    return text.encode()


def key_id(name: str, kind: int, key: bytes) -> bytes:
    """The 4 bytes that distinguish keys of the same name.

    `key`: 32 bytes for Ed25519, DER SubjectPublicKeyInfo for ECDSA, whose key id covers nothing else.
    """
    covered = key if kind == SignatureType.ECDSA else name.encode() + b"\n" + bytes([kind]) + key
    return sha256(covered).digest()[:KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under. Make one with `from_vkey`, `from_pem` or `from_public_key`."""

    name: str
    kind: SignatureType
    key: bytes
    """32 bytes for Ed25519, DER SubjectPublicKeyInfo for ECDSA."""

    @classmethod
    def from_vkey(cls, line: str) -> Verifier:
        """The key of a verifier key line, `<name>+<key id in hex>+<base64 of type and key>`. Raises ProtocolError."""
        match = _VKEY.match(line.strip())
        material = _strict_base64(match["key"]) if match else b""
        if match is None or not material or not _is_name(match["name"]):
            raise ProtocolError("not a verifier key, which has the form <name>+<8 hex digits>+<base64>")
        verifier = cls.from_material(match["name"], material)
        if verifier.key != material[1:] or verifier.key_id.hex() != match["id"]:
            raise ProtocolError("not a verifier key: its key id does not match its name and key")
        return verifier

    @classmethod
    def from_material(cls, name: str, material: bytes) -> Verifier:
        """The key of the last part of a verifier key line (type and key, decoded), for signatures under `name`.

        Raises ProtocolError.
        """
        return cls.from_public_key(name, _load(material))

    @classmethod
    def from_pem(cls, name: str, pem: bytes) -> Verifier:
        """A public key in PEM, for signatures under `name`. Raises ProtocolError."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise ProtocolError("not a public key in PEM") from None
        return cls.from_public_key(name, key)

    @classmethod
    def from_spki(cls, name: str, spki: bytes) -> Verifier:
        """A public key in DER (SubjectPublicKeyInfo), for signatures under `name`. Raises ProtocolError."""
        return cls.from_public_key(name, _load_spki(spki))

    @classmethod
    def from_public_key(cls, name: str, key: object) -> Verifier:
        """A public key for signatures under `name`. Raises ProtocolError unless it is Ed25519 or P-256."""
        if not _is_name(name):
            raise ProtocolError(f"{name!r} cannot be the name of a signer: no spaces, no plus, not empty")
        if isinstance(key, ed25519.Ed25519PublicKey):
            return cls(name, SignatureType.ED25519, key.public_bytes_raw())
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(name, SignatureType.ECDSA, _spki(key))
        raise ProtocolError("a key that signs notes is an Ed25519 or a P-256 key")

    @property
    def key_id(self) -> bytes:
        """The key id, 4 bytes."""
        return key_id(self.name, self.kind, self.key)

    @property
    def vkey(self) -> str:
        """The verifier key line."""
        material = base64.b64encode(bytes([self.kind]) + self.key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    def verify(self, note: Note) -> Signature:
        """The signature of this key on `note`.

        Raises ProofInvalid if there is none or it is wrong.
        """
        mine = [found for found in note.signatures if (found.name, found.key_id) == (self.name, self.key_id)]
        if not mine:
            raise ProofInvalid(f"no signature by {self.name} with key {self.key_id.hex()}")
        for found in mine:
            self._check(found.signature, to_be_signed(note.text))
        return mine[0]

    def _check(self, signature: bytes, data: bytes) -> None:
        try:
            if self.kind == SignatureType.ED25519:
                ed25519.Ed25519PublicKey.from_public_bytes(self.key).verify(signature, data)
            else:
                key = _load_spki(self.key)
                assert isinstance(key, ec.EllipticCurvePublicKey)
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise ProofInvalid(f"the signature by {self.name} is wrong") from None


def signed(text: str, verifier: Verifier, signatures: Iterable[bytes]) -> Note:
    """The note of a text and signatures that the key of `verifier` made over `to_be_signed(text)`."""
    return Note(text, tuple(Signature(verifier.name, verifier.key_id, made) for made in signatures))


def _text(note: str | bytes) -> str:
    try:
        data = note.encode() if isinstance(note, str) else note
        text = data.decode()
    except UnicodeError:
        raise ProtocolError("not a signed note: not UTF-8") from None
    if len(data) > MAX_NOTE_BYTES:
        raise ProtocolError(f"not a signed note: longer than {MAX_NOTE_BYTES:,} bytes")
    return text


def _parse_signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise ProtocolError("not a signed note: a line after the text is not a signature")
    return Signature.decode(name, encoded)


def _strict_base64(text: str) -> bytes:
    """The bytes, empty unless `text` is their canonical base64 (RFC 4648, sections 3.5 and 4)."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


def _well_formed(text: str) -> bool:
    return _CONTROL.search(text) is None and not any("\ud800" <= character <= "\udfff" for character in text)


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() for character in name)


def _load(material: bytes) -> object:
    if material[0] == SignatureType.ED25519 and len(material) == 33:
        return ed25519.Ed25519PublicKey.from_public_bytes(material[1:])
    if material[0] == SignatureType.ECDSA:
        return _load_spki(material[1:])
    raise ProtocolError("not a verifier key: neither Ed25519 nor ECDSA")


@lru_cache(maxsize=16)  # a log has many checkpoints and few keys
def _load_spki(spki: bytes) -> object:
    try:
        return serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise ProtocolError("not a public key in DER") from None


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
