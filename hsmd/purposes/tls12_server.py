"""What a TLS 1.2 ServerKeyExchange signs: both randoms and ServerECDHParams (RFC 8422, section 5.4).

TLS 1.2 has no context string, and a dishonest front end chooses 96 of the 100 bytes of the X25519 form. So this module
requires the exact form and also refuses bytes that could be read as something else: text, ASN.1 structures of a kind that
is commonly signed, and formats with a mark of their own (other_formats.py). Honest randoms match one of these rules about
once in 2^25 handshakes.
"""

from __future__ import annotations

import re

from hsmd.errors import PurposeMismatch
from hsmd.purposes.asn1 import could_be_signed_structure
from hsmd.purposes.named_groups import NAMED_CURVE, NAMED_GROUPS
from hsmd.purposes.other_formats import other_format

_PARAMETERS_AT = 64
_POINT_AT = 68
_CONSTRUCTED = frozenset(b"\x30\x31")
_GROUPS = {group.prefix: group for group in NAMED_GROUPS}

# What counts as text. Some clients and servers begin their random with the time, whose first byte is a printable character
# until 2036, and servers that also speak TLS 1.3 end theirs with "DOWNGRD" (RFC 8446, section 4.1.3).
_TEXT = b"\0\t\n\r" + bytes(range(0x20, 0x7F))
"""Printable ASCII, white space, and the zeros of UTF-16."""
_IS_TEXT = bytes(byte in _TEXT for byte in range(256))
_TEXT_BEGINS = b"\1" * 24
_TEXT_RUNS = b"\1" * 28
_BEFORE_SENTINEL = 56
_MOST_TEXT = 46
"""Of the bytes before the sentinel of a downgrade, so many are text at most. Of honest randoms 22 are on average."""
_NOT_IN_UTF8 = bytes(byte in b"\xc0\xc1" or byte >= 0xF5 for byte in range(256))
_UTF8 = re.compile(
    rb"(?:[\0-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})*"
)
_LAST_CHARACTER_AT = _PARAMETERS_AT - 3
"""Where the last character of randoms of UTF-8 begins at the earliest if it is cut off."""


def check_server_key_exchange(data: bytes) -> None:
    """Pass if `data` is both randoms, a named curve and a point of it that an honest server could send.

    Raises PurposeMismatch.
    """
    group = _GROUPS.get(data[_PARAMETERS_AT:_POINT_AT])
    if group is None:
        raise _mismatch(_parameters_fault(data))
    if len(data) != _POINT_AT + group.point_bytes:
        raise _mismatch(
            "bytes follow the point" if len(data) > _POINT_AT + group.point_bytes else "the point is cut off"
        )
    if fault := group.fault(data[_POINT_AT:]):
        raise _mismatch(f"the point {fault}")
    if other := other_format(data):
        raise _mismatch(f"it can be read as another signed format: {other}")
    if data[0] in _CONSTRUCTED and could_be_signed_structure(data):
        raise _mismatch("it reads as an ASN.1 structure")
    if _is_text(data):
        raise _mismatch("the randoms are text")


def _is_text(data: bytes) -> bool:
    """Whether the randoms are UTF-8, or more of the data is printable than of any random bytes."""
    text = data.translate(_IS_TEXT)
    if text.startswith(_TEXT_BEGINS) or _TEXT_RUNS in text:
        return True
    if int.from_bytes(text[:_BEFORE_SENTINEL]).bit_count() > _MOST_TEXT:
        return True
    randoms = data[:_PARAMETERS_AT]
    if b"\1" in randoms.translate(_NOT_IN_UTF8):  # as in 96 of 100 honest handshakes
        return False
    characters = _UTF8.match(randoms)
    return characters is not None and characters.end() >= _LAST_CHARACTER_AT


def _mismatch(why: str) -> PurposeMismatch:
    return PurposeMismatch(f"not a TLS 1.2 ServerKeyExchange: {why}")


def _parameters_fault(data: bytes) -> str:
    """Why the four bytes of curve type, named curve and point length are none of the supported."""
    if len(data) < _POINT_AT:
        return "it is too short for two randoms and ServerECDHParams"
    if data[_PARAMETERS_AT] != NAMED_CURVE:
        return "the curve type is not named_curve"
    curve = data[_PARAMETERS_AT + 1 : _PARAMETERS_AT + 3]
    if any(group.prefix[1:3] == curve for group in NAMED_GROUPS):
        return "the length of the point does not fit the curve"
    return f"unknown named curve {int.from_bytes(curve)}"
