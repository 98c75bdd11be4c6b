"""What else bytes could be read as: formats that are signed elsewhere and can hold what a TLS 1.2 handshake signs.

TLS 1.2 puts no context string before what it signs, and a dishonest front end chooses both randoms and most of a point.
Where another format has a mark of its own, bytes with that mark are refused here, read as leniently as readers of the
format do. Formats without a mark, such as CMS over raw content, cannot be told (docs/threat-model.md).

Each rule hits an honest handshake less often than once in 2^29.
"""

from __future__ import annotations

import binascii
import re

from hsmd.purposes import cbor

_MARKS: tuple[tuple[str, bytes], ...] = (
    ("TLS 1.3", rb" {64}"),
    ("an SSH signature", rb"SSHSIG"),  # OpenSSH, PROTOCOL.sshsig
    ("an SSH key revocation list", rb"SSHKRL\n\0"),  # OpenSSH, PROTOCOL.krl
    (
        "an SSH authentication request",  # RFC 4252, section 7: session id, SSH_MSG_USERAUTH_REQUEST, user name
        rb"\0\0\0(?:\x14.{20}|\x20.{32}|\x30.{48}|\x40.{64})\x32\0\0",
    ),
    (
        "an SSH structure",
        rb"\0\0\0[\x06-\x7f][ -~]{6}",
    ),  # a name comes first: certificates, proofs of host keys
    ("DSSE", rb"DSSEv1 "),  # Dead Simple Signing Envelope, protocol.md
    (
        "PASETO",
        rb"[\x01-\x0f]\0{7}",
    ),  # pre-authentication encoding: the number of pieces, 64 bits, little-endian
    ("MLS", rb"(?:[\x08-\x3f]|[\x40-\x7f].|[\x80-\xbf].{3})MLS 1\.0 "),  # RFC 9420, section 5.1.2
    ("a TPM attestation", rb"\xffTCG"),  # TPM 2.0 part 2, TPMS_ATTEST
    ("an Apple code directory", rb"\xfa\xde\x0c\x02"),
    (
        "signed data of an Android package",
        rb".\0\0\0.\0\0\0.{4}.\0\0\0",
    ),  # APK scheme v2: nested 32-bit lengths
    # RFC 6962, sections 3.2 and 3.5: version, type, milliseconds since 1970.
    ("Certificate Transparency", rb"\0[\0-\x05]\0\0[\0-\x02]"),
    # RFC 9162, section 4.10: milliseconds since 1970, size of the tree.
    ("Certificate Transparency", rb"\0\0[\0-\x02].{5}\0{3}"),
    ("an IKEv2 message", rb".{17}\x20\x22[\0\x08\x20\x28]\0{6}"),  # RFC 7296, section 3.1: IKE_SA_INIT
    (
        "an OpenPGP key signature",  # RFC 4880, section 5.2.4: a key after 0x99 and its length; type and time of version 3
        rb"\x99\0.[\x02-\x06].{4}[\x01-\x03\x10-\x13\x16\x19-\x1c].*[\x10-\x13\x18\x1f\x20\x28\x30].{4}\Z",
    ),
)
_MARK = re.compile(b"|".join(b"(%s)" % pattern for _, pattern in _MARKS), re.DOTALL)

_COSE_BEGINS = (cbor.ARRAY, cbor.TAG)
_COSE_CONTEXTS = (b"Signature", b"CounterSignature")
"""Begin of the context of a Sig_structure (RFC 9052, section 4.4) and of a Countersign_structure (RFC 9338)."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_BASE64_ALPHABETS = tuple(
    (
        bytes(set(range(256)) - set(_BASE64 + extra)),
        bytes.maketrans(b"-_", b"+/"),
    )
    for extra in (b"-_", b"-_+/", b"+/")
)
"""What readers skip or refuse in base64 of either alphabet, or of both, and the translation to one of them."""
_SKIPPED = rb"[\0\t\n\r \xef\xbb\xbf\xfe\xff]*"
"""White space of JSON, byte order marks, and the zeros of UTF-16 and UTF-32, which JSON readers detect."""
_JWS_BEGINS = re.compile(rb"[^A-Za-z0-9]*+(?:[ACDI7uve]|(?<=[/_.]))")
"""What base64 of a JSON object begins with, or of what is skipped before it. A quick test that excludes most bytes."""
_JSON_OBJECT = re.compile(_SKIPPED + rb"\{" + _SKIPPED + rb'".*?"' + _SKIPPED + rb":", re.DOTALL)
_PAYLOAD_TEXT = re.compile(rb"[\t\n\r -~]{16}")

_SIGNER_AT = 18
"""Where the signer's name begins in the data of an RRSIG (RFC 4034, section 3.1.8.1)."""
_LONGEST_LABEL = 63
_CLASS_IN = b"\0\1"

_EXTENSIONS_AT = 37
"""Where extensions begin in authenticator data without a credential (WebAuthn, section 6.1), which a hash follows."""
_CLIENT_DATA_HASH_BYTES = 32
_FLAGS_AT = 32
_EXTENSION_DATA, _CREDENTIAL_DATA = 0x80, 0x40
_EXTENSION_NAME = re.compile(rb"[ -~]{3,}")


def other_format(data: bytes) -> str:
    """The name of another signed format that `data` can be read as; empty if there is none. `data` has 100 bytes or more."""
    mark = _MARK.match(data)
    if mark is not None:
        return _MARKS[mark.lastindex - 1][0] if mark.lastindex else ""
    # The conditions before `and` are the cheap part of each reader; most honest data needs no more.
    if (data[-5] == 0xFF and ends_like_openpgp(data)) or (
        data[-10:-8] == b"\x05\xff" and ends_like_openpgp(data)
    ):
        return "OpenPGP"
    if data[0] >> 5 in _COSE_BEGINS and _is_cose(data):
        return "COSE"
    if b"." in data and _JWS_BEGINS.match(data) and _is_jws(data):
        return "JWS"
    if data[_SIGNER_AT] <= _LONGEST_LABEL and _is_rrset(data):
        return "DNSSEC"
    if data[_EXTENSIONS_AT] >> 5 == cbor.MAP and _is_webauthn(data):
        return "WebAuthn"
    return ""


def ends_like_openpgp(data: bytes) -> bool:
    """Whether `data` ends with the trailer of an OpenPGP signature.

    Version, 0xFF, and the number of bytes from the version of the signature to here: RFC 9580, section 5.2.4, for
    versions 4 and 6 with 32 bits; GnuPG's version 5 has 64.
    """
    if data[-5:-4] == b"\xff" and data[-6] in (3, 4, 5, 6) and int.from_bytes(data[-4:]) <= len(data) - 6:
        return True
    return data[-10:-8] == b"\x05\xff" and int.from_bytes(data[-8:]) <= len(data) - 10


def _is_cose(data: bytes) -> bool:
    """COSE_Sign, COSE_Sign1 and countersignatures: a CBOR array whose first member is the context."""
    found = cbor.untagged(data, 0)
    if found is None or found.major != cbor.ARRAY:
        return False
    context = cbor.text(data, found.end)
    return context is not None and context.startswith(_COSE_CONTEXTS)


def _is_jws(data: bytes) -> bool:
    """A JWS signing input (RFC 7515, section 5.1; RFC 7797): the header in base64url, a dot, the payload.

    Many readers skip what is not base64. The protected header may be empty; then 16 characters of text in the payload count.
    """
    dot = data.find(b".")
    if dot < 0:
        return False
    for others, standard in _BASE64_ALPHABETS:
        if dot:
            if _JSON_OBJECT.match(_decoded(data[:dot].translate(standard, others))):
                return True
        elif _PAYLOAD_TEXT.match(_decoded(data.translate(standard, others))):
            return True
    return False


def _decoded(base64: bytes) -> bytes:
    usable = len(base64) - (len(base64) % 4 == 1)
    return binascii.a2b_base64(base64[:usable] + b"==")


def _is_rrset(data: bytes) -> bool:
    """DNSSEC: what an RRSIG signs, its own fields and records of the type and TTL that it names."""
    at = _name_end(data, _SIGNER_AT)
    records = 0
    while 0 <= at < len(data):
        at = _name_end(data, at)
        if at < 0 or data[at : at + 2] != data[:2] or data[at + 2 : at + 4] != _CLASS_IN:
            return False
        if data[at + 4 : at + 8] != data[4:8] or at + 10 > len(data):
            return False
        at += 10 + int.from_bytes(data[at + 8 : at + 10])
        records += 1
    return records > 0 and at == len(data)


def _name_end(data: bytes, at: int) -> int:
    """The end of the domain name at `at`; -1 if there is none."""
    while at < len(data):
        label = data[at]
        at += 1 + label
        if label == 0:
            return at
        if label > _LONGEST_LABEL:
            return -1
    return -1


def _is_webauthn(data: bytes) -> bool:
    """A WebAuthn assertion with extensions (WebAuthn, section 6.3.3): authenticator data and a hash of client data."""
    if len(data) <= _EXTENSIONS_AT + _CLIENT_DATA_HASH_BYTES or not data[_FLAGS_AT] & _EXTENSION_DATA:
        return False
    extensions = cbor.head(data, _EXTENSIONS_AT)
    if data[_FLAGS_AT] & _CREDENTIAL_DATA or extensions is None or extensions.major != cbor.MAP:
        return False
    name = cbor.text(data, extensions.end)
    if name is None or not _EXTENSION_NAME.fullmatch(name):
        return False
    return cbor.skip(data, _EXTENSIONS_AT) == len(data) - _CLIENT_DATA_HASH_BYTES
