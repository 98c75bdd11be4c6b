"""A strict DER reader (X.690, section 10), and a lenient test for ASN.1 structures that are commonly signed."""

from __future__ import annotations

from hsmd.errors import PurposeMismatch

INTEGER = 0x02
BIT_STRING = 0x03
OBJECT_IDENTIFIER = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_3 = 0xA3
_CONSTRUCTED = 0x20
_HIGH_TAG = 0x1F
_INDEFINITE = 0x80
_MAX_LENGTH_BYTES = 3
_MAX_DEPTH = 32

_FIRST_IN_SIGNED = frozenset({INTEGER, SEQUENCE, CONTEXT_0, 0xA1, 0xA2})
"""Tags of the first member of TBSCertificate, CertificationRequestInfo, TBSCertList, ResponseData and CMS attributes."""


class DerReader:
    """Reads the elements of one DER value in turn. Raises PurposeMismatch for anything that is not DER.

    `what` names the value in error texts, for example "a certificate request".
    """

    __slots__ = ("_at", "_data", "_end", "what")

    def __init__(self, data: bytes, what: str, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end
        self.what = what

    def mismatch(self, why: str) -> PurposeMismatch:
        """The error for a fault in this value."""
        return PurposeMismatch(f"not {self.what}: {why}")

    def next_tag(self) -> int | None:
        """Identifier octet of the next element, or None at the end."""
        return self._data[self._at] if self._at < self._end else None

    def whole(self, tag: int) -> bytes:
        """The next element, header and content; it must have this `tag`."""
        begin = self._at
        _, end = self._advance(tag)
        return self._data[begin:end]

    def content(self, tag: int) -> bytes:
        """The content of the next element; it must have this `tag`."""
        begin, end = self._advance(tag)
        return self._data[begin:end]

    def enter(self, tag: int) -> DerReader:
        """A reader for the content of the next element, which must have this `tag`."""
        begin, end = self._advance(tag)
        return DerReader(self._data, self.what, begin, end)

    def finish(self) -> None:
        """Raise PurposeMismatch unless everything has been read."""
        if self._at != self._end:
            raise self.mismatch("bytes where none may follow")

    def check_nesting(self, depth: int = 0) -> None:
        """Raise PurposeMismatch unless the rest consists of DER elements, recursively inside constructed ones."""
        if depth > _MAX_DEPTH:
            raise self.mismatch("nested too deep")
        while (tag := self.next_tag()) is not None:
            begin, end = self._advance(tag)
            if tag & _CONSTRUCTED:
                DerReader(self._data, self.what, begin, end).check_nesting(depth + 1)

    def _advance(self, tag: int) -> tuple[int, int]:
        """Skip the next element; returns begin and end of its content."""
        if self._at + 2 > self._end:
            raise self.mismatch("it ends early")
        if self._data[self._at] != tag or tag & _HIGH_TAG == _HIGH_TAG:
            raise self.mismatch(f"ASN.1 tag 0x{self._data[self._at]:02x} out of place")
        begin, length = self._length(self._at + 1)
        if length > self._end - begin:
            raise self.mismatch("a length exceeds what is there")
        self._at = begin + length
        return begin, self._at

    def _length(self, at: int) -> tuple[int, int]:
        """Begin and length of the content; `at` is the index of the first length octet."""
        first = self._data[at]
        if first < _INDEFINITE:
            return at + 1, first
        begin = at + 1 + (first & 0x7F)
        octets = self._data[at + 1 : begin]
        if not 1 <= len(octets) <= _MAX_LENGTH_BYTES or begin > self._end:
            raise self.mismatch("unusable ASN.1 length")
        length = int.from_bytes(octets)
        if octets[0] == 0 or length < _INDEFINITE:
            raise self.mismatch("a length is not in its shortest form")
        return begin, length


def could_be_signed_structure(data: bytes) -> bool:
    """Whether a lenient (BER) reader could parse all of `data` as an ASN.1 structure of a kind that is commonly signed.

    Checks the outer element, the tag of its first member, and that its members fill it exactly.
    """
    if data[:1] not in (b"\x30", b"\x31") or _ber_end(data, 0) != len(data):
        return False
    at = _ber_content(data, 0)
    if at >= len(data) or data[at] not in _FIRST_IN_SIGNED:
        return False
    while 0 <= at < len(data):
        at = _ber_end(data, at)
    return at == len(data)


def _ber_content(data: bytes, at: int) -> int:
    first = data[at + 1]
    return at + 2 + (first & 0x7F if first > _INDEFINITE else 0)


def _ber_end(data: bytes, at: int) -> int:
    """The end of the element at `at`, -1 if it does not fit. An element of indefinite length must fill the rest."""
    if at + 2 > len(data):
        return -1
    first = data[at + 1]
    if first == _INDEFINITE:
        return len(data) if data.endswith(b"\0\0") else -1
    begin = _ber_content(data, at)
    length = first if first < _INDEFINITE else int.from_bytes(data[at + 2 : begin])
    return begin + length if begin + length <= len(data) else -1
