"""Altered bytes, for tests of codecs that must refuse them."""

from __future__ import annotations

from collections.abc import Iterator

MASKS = (0x01, 0x20, 0x80, 0xFF)


def single_byte_changes(data: bytes) -> Iterator[bytes]:
    """`data` with one byte changed: every byte, by each of the masks."""
    for position in range(len(data)):
        for mask in MASKS:
            altered = bytearray(data)
            altered[position] ^= mask
            yield bytes(altered)


def cuts_and_extensions(data: bytes) -> Iterator[bytes]:
    """All shorter beginnings and ends of `data`, and a few longer ones."""
    for length in range(len(data)):
        yield data[:length]
        yield data[len(data) - length :] if length else b""
    for more in (b"\0", b" ", b"\n", b"{}", data):
        yield data + more
        yield more + data
