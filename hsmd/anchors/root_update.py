"""CMP's RootCaKeyUpdateContent (RFC 9810, section 5.3.19.15): the next key of a root CA, certified by itself and by the old key.

    RootCaKeyUpdateContent ::= SEQUENCE {
        newWithNew       CMPCertificate,
        newWithOld   [0] CMPCertificate OPTIONAL,
        oldWithNew   [1] CMPCertificate OPTIONAL }

CMPCertificate is a CHOICE with one alternative for X.509, so [0] and [1] are explicit tags: each encloses a whole certificate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509

from hsmd.anchors.certificates import check_size, der, der_faults, read
from hsmd.anchors.problems import UpdateRefused
from hsmd.purposes.asn1 import CONTEXT_0, SEQUENCE, DerReader

_WHAT = "root CA key update"
_CONTEXT_1 = 0xA1
_SHORT = 0x80


@dataclass(frozen=True, slots=True)
class RootUpdate:
    """The new key certified by itself, by the old key (the link), and the old key certified by the new one."""

    new_with_new: x509.Certificate
    new_with_old: x509.Certificate | None = None
    old_with_new: x509.Certificate | None = None

    def encode(self) -> bytes:
        """The content in DER."""
        return _element(SEQUENCE, b"".join(self._members()))

    def _members(self) -> Iterator[bytes]:
        yield der(self.new_with_new)
        for tag, certificate in ((CONTEXT_0, self.new_with_old), (_CONTEXT_1, self.old_with_new)):
            if certificate is not None:
                yield _element(tag, der(certificate))

    @classmethod
    def decode(cls, data: bytes) -> RootUpdate:
        """The update in DER, which is the only encoding of it. Raises CertificatesInvalid. Nothing is verified."""
        check_size(data, _WHAT)
        with der_faults(_WHAT):
            whole = DerReader(data, "a RootCaKeyUpdateContent")
            members = whole.enter(SEQUENCE)
            whole.finish()
            own = members.whole(SEQUENCE)
            link, back = _optional(members, CONTEXT_0), _optional(members, _CONTEXT_1)
            members.finish()
        return cls(
            read(own, f"{_WHAT}: newWithNew"),
            None if link is None else read(link, f"{_WHAT}: newWithOld"),
            None if back is None else read(back, f"{_WHAT}: oldWithNew"),
        )


def check_validity(update: RootUpdate, old_with_old: x509.Certificate) -> None:
    """Check the dates of an update that a CA makes, against its present certificate (RFC 9810, section 4.4.1).

    The link begins with the new certificate and ends no later than the old one; the old key certified by the new one has the
    dates of the old certificate; and the new certificate begins before the old one ends. Raises UpdateRefused. Nodes do not
    depend on it: for them it matters what is valid at the moment (`acceptance.accept`).
    """
    new, link, back = update.new_with_new, update.new_with_old, update.old_with_new
    if new.not_valid_before_utc >= old_with_old.not_valid_after_utc:
        raise UpdateRefused("newWithNew begins when the old certificate has ended; let it begin before")
    if link is not None:
        if link.not_valid_before_utc != new.not_valid_before_utc:
            raise UpdateRefused("newWithOld does not begin with newWithNew; give both the same beginning")
        if link.not_valid_after_utc > old_with_old.not_valid_after_utc:
            raise UpdateRefused("newWithOld ends after the old certificate; let it end no later")
    if back is not None and _dates(back) != _dates(old_with_old):
        raise UpdateRefused("oldWithNew has other dates than the old certificate; give it the same")


def _dates(certificate: x509.Certificate) -> tuple[object, object]:
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _optional(members: DerReader, tag: int) -> bytes | None:
    """The certificate inside an explicit tag, or None if there is another element, or none."""
    if members.next_tag() != tag:
        return None
    inside = members.enter(tag)
    certificate = inside.whole(SEQUENCE)
    inside.finish()
    return certificate


def _element(tag: int, content: bytes) -> bytes:
    """Tag, length in its shortest form, and content (X.690, section 10.1)."""
    if len(content) < _SHORT:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag, _SHORT | len(length)]) + length + content
