"""What a TLS 1.2 ServerKeyExchange signs: both randoms and ServerECDHParams (RFC 8422, section 5.4).

TLS 1.2 has no context string, and a dishonest front end chooses 96 of the 100 bytes of the X25519 form. So this module
requires the exact form and also refuses other signed formats that fit into it: TLS 1.3 padding, SSHSIG, and ASN.1
structures of a kind that is commonly signed. Honest randoms match one of them about once in 2^26 handshakes.
"""

from __future__ import annotations

from hsmd.errors import PurposeMismatch
from hsmd.purposes.asn1 import could_be_signed_structure
from hsmd.purposes.named_groups import NAMED_CURVE, NAMED_GROUPS
from hsmd.purposes.tls13 import PADDING

_PARAMETERS_AT = 64
_POINT_AT = 68
_OTHER_FORMATS = (PADDING, b"SSHSIG")
_CONSTRUCTED = frozenset(b"\x30\x31")
_GROUPS = {group.prefix: group for group in NAMED_GROUPS}


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
    if data.startswith(_OTHER_FORMATS):
        raise _mismatch("the randoms are the beginning of another signed format")
    if data[0] in _CONSTRUCTED and could_be_signed_structure(data):
        raise _mismatch("it reads as an ASN.1 structure")


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
