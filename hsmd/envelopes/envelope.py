"""The bytes of an envelope: length of the header (two bytes, big-endian), header, body."""

from __future__ import annotations

from dataclasses import dataclass, field

from hsmd.envelopes.header import Header
from hsmd.errors import EnvelopeInvalid

MAX_ENVELOPE_BYTES = 16_384
_LENGTH_BYTES = 2


@dataclass(frozen=True, slots=True)
class Envelope:
    """A header and what is sealed under it. What a decoded header says is only proven when the envelope has opened."""

    header: Header
    body: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The envelope as it is stored and sent. Raises EnvelopeInvalid if it would be too long."""
        encoded = prefix(self.header) + self.body
        if len(encoded) > MAX_ENVELOPE_BYTES:
            raise EnvelopeInvalid(f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes")
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """The envelope of these bytes, not yet opened. Raises EnvelopeInvalid."""
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        end = _LENGTH_BYTES + length
        if len(data) > MAX_ENVELOPE_BYTES or len(data) <= end:
            raise EnvelopeInvalid("not an envelope: too short, too long, or without a header")
        return cls(Header.decode(data[_LENGTH_BYTES:end]), data[end:])


def prefix(header: Header) -> bytes:
    """What stands before the body: the header, and its length before it."""
    encoded = header.encode()
    return len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded
