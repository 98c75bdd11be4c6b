"""What an authority's key signs: certificates, revocation lists, and the request for its own certificate (RFC 5280, 2986).

The bytes are read again beside the key, and everything that is not expected is refused: the process that made them is reached
from the network. A certificate has one of the profiles of the key's constraints, or is an authority's own one, or that of the
key that replaces it or stands below it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from hsmd.algorithms import SignatureScheme
from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes import asn1
from hsmd.purposes.asn1 import DerReader
from hsmd.purposes.authority import AuthorityConstraints
from hsmd.purposes.common_names import (
    canonical,
    common_name_of,
    may_be_host_or_mailbox,
    subject_common_name,
)
from hsmd.purposes.host_names import host_name
from hsmd.purposes.name_constraints import ANY, holds_ipv4, mailbox, name_constraints
from hsmd.purposes.next_key import read_next_key
from hsmd.purposes.other_formats import ends_like_openpgp
from hsmd.purposes.x509 import ALGORITHM_IDENTIFIERS, check_request

SKEW = timedelta(hours=1)
"""How far in the future something may begin: clocks differ."""
NUMBERS_AHEAD = timedelta(days=1)
"""How far the number of a revocation list may be ahead of the time in seconds: lists of one second have following numbers."""
_VERSION_3, _VERSION_1 = b"\2", b"\0"
_MAX_SERIAL_BYTES = 20
_BOOLEAN, _OCTET_STRING, _ENUMERATED = 0x01, 0x04, 0x0A
_EMAIL, _DNS, _IP = 0x81, 0x82, 0x87
_KEY_IDENTIFIER = 0x80
_CONTEXT_3 = 0xA3
_TRUE = b"\xff"
_EMPTY = b"\x30\x00"

BASIC_CONSTRAINTS = bytes.fromhex("551d13")
KEY_USAGE = bytes.fromhex("551d0f")
EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
SUBJECT_KEY_ID = bytes.fromhex("551d0e")
AUTHORITY_KEY_ID = bytes.fromhex("551d23")
NAME_CONSTRAINTS = bytes.fromhex("551d1e")
DISTRIBUTION_POINTS = bytes.fromhex("551d1f")
CRL_NUMBER = bytes.fromhex("551d14")
REASON_CODE = bytes.fromhex("551d15")
NEXT_KEY = bytes.fromhex("2b0601040183921b0201")
"""id-ce-hashOfRootKey (RFC 8649, section 3)."""

_CERTIFICATES_AND_LISTS = bytes.fromhex("03020106")
"""KeyUsage keyCertSign and cRLSign (RFC 5280, section 4.2.1.3)."""
_HANDSHAKES = frozenset(map(bytes.fromhex, ("03020780", "03020520", "030205a0")))
"""KeyUsage digitalSignature, keyEncipherment, or both."""
_USES = {
    bytes.fromhex("300a06082b06010505070301"): "server",
    bytes.fromhex("300a06082b06010505070302"): "client",
    bytes.fromhex("301406082b0601050507030106082b06010505070302"): "server-client",
}
"""ExtendedKeyUsage by profile."""
MAX_NAMES = 100
"""Alternative names of a certificate. Each is compared with up to 100 entries of the ceiling."""
_MAX_URL_BYTES = 2_000
_URL = re.compile(rb"http://[!-~]+")
"""Fetched without TLS, and by no other scheme: verifiers follow what stands here."""
_DISTRIBUTION_POINT, _FULL_NAME, _URI = 0xA0, 0xA0, 0x86
_REASONS = frozenset({1, 2, 3, 4, 5, 9})
"""CRLReason (RFC 5280, section 5.3.1) without those that undo or are not used: unspecified, hold, removal, AA compromise."""
_MAX_CRL_NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Beside:
    """What a check needs to know besides the bytes: which other authorities are in the token, and the time."""

    constraints_of: Callable[[bytes], AuthorityConstraints | None]
    """From the SHA-256 of a SubjectPublicKeyInfo to the constraints of that key's ceiling, None if it is no authority here."""
    reserve_of: Callable[[bytes], AuthorityConstraints | None]
    """From the same to the most that a key may ever be adopted for, None if it is not marked as a reserve in this token."""
    now: Callable[[], float]
    """Seconds since 1970."""

    def limits_of(self, digest: bytes) -> AuthorityConstraints | None:
        """The most that a key of this token certifies, now or when it is adopted; None if that is not known."""
        found = self.constraints_of(digest)
        return self.reserve_of(digest) if found is None else found


@dataclass(frozen=True, slots=True)
class _Extension:
    critical: bool
    value: bytes


_Extensions = dict[bytes, _Extension]


class AuthorityCheck:
    """The check of one authority's key."""

    def __init__(self, constraints: AuthorityConstraints, spki: bytes, beside: Beside) -> None:
        """`spki` is the key's DER SubjectPublicKeyInfo."""
        self._constraints = constraints
        self._spki = spki
        self._beside = beside

    def check(self, scheme: SignatureScheme, data: bytes) -> None:
        """Pass if the key may sign `data`: a TBSCertificate, a TBSCertList or a CertificationRequestInfo.

        Raises PurposeMismatch, whose text says which rule was broken.
        """
        what = "what an authority signs"
        DerReader(data, what).check_nesting()
        if ends_like_openpgp(data):
            raise PurposeMismatch(f"not {what}: it ends like an OpenPGP signature")
        outer = DerReader(data, what)
        members = outer.enter(asn1.SEQUENCE)
        outer.finish()
        if members.next_tag() == asn1.CONTEXT_0:
            members.what = "a certificate that this authority may issue"
            self._check_certificate(scheme, members)
        elif members.content(asn1.INTEGER) == _VERSION_1:
            self._check_request(data, members)
        else:
            members = DerReader(data, "a revocation list of this authority").enter(asn1.SEQUENCE)
            self._check_list(scheme, members)

    # --- certificates ---

    def _check_certificate(self, scheme: SignatureScheme, tbs: DerReader) -> None:
        if tbs.content(asn1.CONTEXT_0) != bytes([asn1.INTEGER, 1]) + _VERSION_3:
            raise tbs.mismatch("the version is not v3")
        _check_serial(tbs)
        self._check_issuer(scheme, tbs)
        term = self._check_term(tbs.enter(asn1.SEQUENCE))
        subject = tbs.whole(asn1.SEQUENCE)
        spki = tbs.whole(asn1.SEQUENCE)
        extensions = _extensions(tbs.enter(_CONTEXT_3))
        tbs.finish()
        identified = _take_key_ids(tbs, extensions)
        basic = _take(tbs, extensions, BASIC_CONSTRAINTS, critical=True)
        if basic == _EMPTY:
            self._check_leaf(tbs, term, subject, spki, extensions)
        elif not identified:
            raise tbs.mismatch("a certificate of an authority has a subject key identifier")
        else:
            self._check_authority(tbs, term, subject, spki, extensions, _path_length(tbs, basic))
        if extensions:
            raise tbs.mismatch(f"extension {next(iter(extensions)).hex()} has no place in it")

    def _check_issuer(self, scheme: SignatureScheme, tbs: DerReader) -> None:
        if tbs.whole(asn1.SEQUENCE) != ALGORITHM_IDENTIFIERS[scheme]:
            raise tbs.mismatch("the signature algorithm in it is not the requested one")
        if tbs.whole(asn1.SEQUENCE) != self._constraints.name:
            raise tbs.mismatch("the issuer is not this authority")

    def _check_term(self, validity: DerReader) -> timedelta:
        begin, end = _time(validity), _time(validity)
        validity.finish()
        return self._term(validity, begin, end)

    def _term(self, reader: DerReader, begin: datetime, end: datetime) -> timedelta:
        if end <= begin:
            raise reader.mismatch("it ends before it begins")
        if begin > datetime.fromtimestamp(self._beside.now(), UTC) + SKEW:
            raise reader.mismatch("it begins in the future")
        return end - begin

    def _check_leaf(
        self, tbs: DerReader, term: timedelta, subject: bytes, spki: bytes, extensions: _Extensions
    ) -> None:
        """A certificate that is not an authority's."""
        if spki == self._spki:
            raise tbs.mismatch("the authority's own key is certified for something else")
        if term > timedelta(seconds=self._constraints.leaf_s):
            raise tbs.mismatch("its term is longer than the key's ceiling permits")
        usage = _take(tbs, extensions, KEY_USAGE, critical=True)
        if usage not in _HANDSHAKES:
            raise tbs.mismatch("the key usage is not that of a TLS key")
        profile = _USES.get(_take(tbs, extensions, EXTENDED_KEY_USAGE, critical=False), "")
        if profile not in self._constraints.profiles:
            raise tbs.mismatch(f"the profile {profile or '(another one)'} is not in the key's ceiling")
        points = extensions.pop(DISTRIBUTION_POINTS, None)
        if points is not None:
            _check_points(tbs, points)
        self._check_names(tbs, profile, subject, extensions)

    def _check_names(self, tbs: DerReader, profile: str, subject: bytes, extensions: _Extensions) -> None:
        common_name = subject_common_name(DerReader(subject, tbs.what))
        alternative = extensions.pop(SUBJECT_ALT_NAME, None)
        hosts: list[str] = []
        if alternative is not None:
            if alternative.critical != (subject == _EMPTY):
                raise tbs.mismatch(
                    "alternative names must be critical if the subject is empty, and only then"
                )
            hosts = self._check_alternative_names(DerReader(alternative.value, tbs.what))
        if profile != "client" and not hosts:
            raise tbs.mismatch("a server's certificate has a DNS name or an address")
        if common_name is None and alternative is None:
            raise tbs.mismatch("it has no name")
        if common_name is not None:
            self._check_common_name(tbs, common_name, hosts)

    def _check_alternative_names(self, outer: DerReader) -> list[str]:
        """Check them; returns the DNS names and addresses."""
        names = outer.enter(asn1.SEQUENCE)
        outer.finish()
        hosts: list[str] = []
        count = 0
        while (tag := names.next_tag()) is not None:
            count += 1
            if count > MAX_NAMES:
                raise names.mismatch(f"it has more than {MAX_NAMES} names")
            content = names.content(tag)
            if tag == _DNS:
                hosts.append(self._check_dns_name(names, content))
            elif tag == _IP:
                hosts.append(self._check_address(names, content))
            elif tag == _EMAIL:
                self._check_email(names, content)
            else:
                raise names.mismatch("an alternative name that is no DNS name, address or e-mail address")
        if not count:
            raise names.mismatch("an empty list of alternative names")
        return hosts

    def _check_dns_name(self, names: DerReader, content: bytes) -> str:
        text = _ascii(names, content)
        try:
            name = host_name("name", text)
        except BadRequest:
            raise names.mismatch("a name that is not a host name") from None
        if name != text or not self._permits_host(name):
            raise names.mismatch(f"the key's ceiling does not permit the name {name}")
        return name

    def _permits_host(self, name: str) -> bool:
        permitted, excluded = self._constraints.permitted, self._constraints.excluded
        return permitted.has_dns(name) and not excluded.touches_dns(name)

    def _check_address(self, names: DerReader, content: bytes) -> str:
        if len(content) not in (4, 16):
            raise names.mismatch("an address of another length than 4 or 16 bytes")
        address = ip_address(content)
        if holds_ipv4(address):
            raise names.mismatch(f"the address {address} stands for one of IPv4; give that one")
        permitted, excluded = self._constraints.permitted, self._constraints.excluded
        if not permitted.has_address(address) or excluded.has_address(address):
            raise names.mismatch(f"the key's ceiling does not permit the address {address}")
        return str(address)

    def _check_email(self, names: DerReader, content: bytes) -> None:
        text = _ascii(names, content)
        try:
            address = mailbox("name", text)
        except BadRequest:
            raise names.mismatch("a name that is not an e-mail address") from None
        permitted, excluded = self._constraints.permitted, self._constraints.excluded
        if address != text or not permitted.has_email(address) or excluded.touches_email(address):
            raise names.mismatch(f"the key's ceiling does not permit the e-mail address {address}")

    def _check_common_name(self, tbs: DerReader, name: str, hosts: list[str]) -> None:
        """One of the alternative names, a name in the ceiling, or with `*` any that no reader takes for a foreign host."""
        if name in hosts or (name != ANY and name in self._constraints.common_names):
            return
        if ANY not in self._constraints.common_names or may_be_host_or_mailbox(name):
            raise tbs.mismatch(f"the key's ceiling does not permit the common name {name}")

    # --- certificates of authorities ---

    def _check_authority(
        self,
        tbs: DerReader,
        term: timedelta,
        subject: bytes,
        spki: bytes,
        extensions: _Extensions,
        path_length: int,
    ) -> None:
        """The authority's own certificate, or that of the next one, or of another one in the token."""
        if term > timedelta(seconds=self._constraints.authority_s):
            raise tbs.mismatch("its term is longer than the key's ceiling permits")
        if _take(tbs, extensions, KEY_USAGE, critical=True) != _CERTIFICATES_AND_LISTS:
            raise tbs.mismatch("the key usage is not that of an authority")
        next_key = _next_key(tbs, extensions)
        names = extensions.pop(NAME_CONSTRAINTS, None)
        if spki == self._spki:
            if subject != self._constraints.name or path_length > self._constraints.path_length:
                raise tbs.mismatch("name or path length are not those in the key's ceiling")
            if next_key != self._constraints.next_key:
                raise tbs.mismatch("the next key is not the one in the key's ceiling")
        else:
            self._check_other(tbs, subject, spki, next_key, path_length)
        if names != _Extension(True, self._name_constraints()):
            raise tbs.mismatch("the name constraints are not those in the key's ceiling")

    def _check_other(
        self, tbs: DerReader, subject: bytes, spki: bytes, next_key: str, path_length: int
    ) -> None:
        if path_length >= self._constraints.path_length:
            raise tbs.mismatch("its path length is not below that in the key's ceiling")
        name = subject_common_name(DerReader(subject, tbs.what))
        if name is None or canonical(name) == canonical(common_name_of(self._constraints.name)):
            raise tbs.mismatch(
                "another authority has no name, or what verifiers take for the name of this one"
            )
        digest = hashlib.sha256(spki).digest()
        other = self._beside.constraints_of(digest)
        if other is None:
            self._check_committed(tbs, digest, next_key)
            return
        if not other.within(self._constraints):
            raise tbs.mismatch("the ceiling of that authority permits more than that of this one")
        if not self._binds_next(other):
            raise tbs.mismatch(
                "that authority commits to a key of which this token does not know that it permits no more"
            )
        if subject != other.name or next_key not in ("", other.next_key):
            raise tbs.mismatch("its name or next key are not those in the ceiling of that authority")

    def _check_committed(self, tbs: DerReader, digest: bytes, next_key: str) -> None:
        """A key that is no authority here yet, or is in another token."""
        if digest.hex() != self._constraints.next_key:
            raise tbs.mismatch(
                "the key's ceiling does not commit to that key, and the token has no such authority"
            )
        if next_key:
            raise tbs.mismatch("a link for the next key says nothing about the one after it")
        if self._constraints.next_elsewhere:
            return  # the token that it was made in has marked it
        reserve = self._beside.reserve_of(digest)
        if reserve is None or not reserve.within(self._constraints):
            raise tbs.mismatch("the token does not know the next key as a reserve that permits no more")

    def _binds_next(self, other: AuthorityConstraints) -> bool:
        """Whether the key that another authority commits to can never certify more than this one."""
        if not other.next_key:
            return True
        if other.next_elsewhere:
            return False
        limits = self._beside.limits_of(bytes.fromhex(other.next_key))
        return limits is not None and limits.within(self._constraints)

    def _name_constraints(self) -> bytes:
        return name_constraints(self._constraints.permitted, self._constraints.excluded).public_bytes()

    # --- requests and lists ---

    def _check_request(self, data: bytes, info: DerReader) -> None:
        check_request(self._spki, data)
        info.what = "a request of this authority"
        if info.whole(asn1.SEQUENCE) != self._constraints.name:
            raise info.mismatch("the subject is not this authority")

    def _check_list(self, scheme: SignatureScheme, tbs: DerReader) -> None:
        if tbs.content(asn1.INTEGER) != b"\1":
            raise tbs.mismatch("the version is not v2")
        self._check_issuer(scheme, tbs)
        begin, end = _time(tbs), _time(tbs)
        if self._term(tbs, begin, end) > timedelta(seconds=self._constraints.leaf_s):
            raise tbs.mismatch("its term is longer than the key's ceiling permits")
        if tbs.next_tag() == asn1.SEQUENCE:
            _check_revoked(tbs.enter(asn1.SEQUENCE))
        extensions = _extensions(tbs.enter(asn1.CONTEXT_0))
        tbs.finish()
        self._check_number(tbs, _take(tbs, extensions, CRL_NUMBER, critical=False))
        _check_authority_key_id(tbs, _take(tbs, extensions, AUTHORITY_KEY_ID, critical=False))
        if extensions:
            raise tbs.mismatch(f"extension {next(iter(extensions)).hex()} has no place in it")

    def _check_number(self, tbs: DerReader, value: bytes) -> None:
        """Numbers are the time in seconds. After one from far in the future all honest lists would be older ones."""
        reader = DerReader(value, tbs.what)
        content = reader.content(asn1.INTEGER)
        reader.finish()
        most = self._beside.now() + NUMBERS_AHEAD.total_seconds()
        if not content or len(content) > _MAX_CRL_NUMBER_BYTES or not 0 < _integer(content) <= most:
            raise tbs.mismatch("its number is not positive, or that of a list of the future")


def _integer(content: bytes) -> int:
    return int.from_bytes(content, signed=True)


def _check_serial(reader: DerReader) -> None:
    serial = reader.content(asn1.INTEGER)
    positive = bool(serial) and serial[0] < 0x80 and any(serial)
    if not positive or len(serial) > _MAX_SERIAL_BYTES or (serial[0] == 0 and serial[1] < 0x80):
        raise reader.mismatch("the serial number is not positive and of at most 20 bytes")


_UTC = re.compile(rb"[0-9]{12}Z")
_GENERALIZED = re.compile(rb"[0-9]{14}Z")


def _time(reader: DerReader) -> datetime:
    """A Time as RFC 5280, section 4.1.2.5, demands it: UTCTime up to 2049, GeneralizedTime from 2050 on, in seconds."""
    late = reader.next_tag() == asn1.GENERALIZED_TIME
    content = reader.content(asn1.GENERALIZED_TIME if late else asn1.UTC_TIME)
    if not (_GENERALIZED if late else _UTC).fullmatch(content):
        raise reader.mismatch("a time that is not in seconds of UTC")
    text = content.decode()
    if not late:
        text = ("19" if text >= "50" else "20") + text
    try:
        found = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise reader.mismatch("a time that does not exist") from None
    if late and found.year < 2050:
        raise reader.mismatch("a time before 2050 in the form of later ones")
    return found


def _extensions(outer: DerReader) -> _Extensions:
    """Extensions by the content of their OID, each there once."""
    found: _Extensions = {}
    members = outer.enter(asn1.SEQUENCE)
    outer.finish()
    while members.next_tag() is not None:
        extension = members.enter(asn1.SEQUENCE)
        oid = extension.content(asn1.OBJECT_IDENTIFIER)
        critical = extension.next_tag() == _BOOLEAN
        if critical and extension.content(_BOOLEAN) != _TRUE:
            raise members.mismatch("a BOOLEAN that is not DER")
        value = extension.content(_OCTET_STRING)
        extension.finish()
        if oid in found:
            raise members.mismatch(f"extension {oid.hex()} is there twice")
        DerReader(value, outer.what).check_nesting()
        found[oid] = _Extension(critical, value)
    return found


def _take(reader: DerReader, extensions: _Extensions, oid: bytes, *, critical: bool) -> bytes:
    """The value of an extension that must be there, and is removed."""
    extension = extensions.pop(oid, None)
    if extension is None or extension.critical != critical:
        state = "critical" if critical else "not critical"
        raise reader.mismatch(f"extension {oid.hex()} must be there, and be {state}")
    return extension.value


def _take_key_ids(reader: DerReader, extensions: _Extensions) -> bool:
    """Check and remove the key identifiers of authority and subject; returns whether that of the subject was there."""
    if AUTHORITY_KEY_ID in extensions:
        _check_authority_key_id(reader, _take(reader, extensions, AUTHORITY_KEY_ID, critical=False))
    if SUBJECT_KEY_ID not in extensions:
        return False
    value = DerReader(_take(reader, extensions, SUBJECT_KEY_ID, critical=False), reader.what)
    if not 1 <= len(value.content(_OCTET_STRING)) <= 64:
        raise reader.mismatch("the subject key identifier has another length than 1 to 64")
    value.finish()
    return True


def _check_authority_key_id(reader: DerReader, value: bytes) -> None:
    """By the key's identifier only: issuer and serial number would defeat a link certificate."""
    outer = DerReader(value, reader.what)
    members = outer.enter(asn1.SEQUENCE)
    outer.finish()
    if not 1 <= len(members.content(_KEY_IDENTIFIER)) <= 64:
        raise reader.mismatch("the authority key identifier has another length than 1 to 64")
    members.finish()


def _check_points(reader: DerReader, extension: _Extension) -> None:
    """Complete revocation lists of this authority, at URLs: no other issuer, no reasons, no relative names."""
    if extension.critical or len(extension.value) > _MAX_URL_BYTES:
        raise reader.mismatch("the distribution points are critical, or too long")
    outer = DerReader(extension.value, reader.what)
    points = outer.enter(asn1.SEQUENCE)
    outer.finish()
    if points.next_tag() is None:
        raise reader.mismatch("an empty list of distribution points")
    while points.next_tag() is not None:
        point = points.enter(asn1.SEQUENCE)
        name = point.enter(_DISTRIBUTION_POINT)
        point.finish()
        urls = name.enter(_FULL_NAME)
        name.finish()
        while (tag := urls.next_tag()) is not None:
            if tag != _URI or not _URL.fullmatch(urls.content(_URI)):
                raise reader.mismatch("a distribution point that is not an http:// URL")


def _path_length(reader: DerReader, value: bytes) -> int:
    outer = DerReader(value, reader.what)
    members = outer.enter(asn1.SEQUENCE)
    outer.finish()
    if members.content(_BOOLEAN) != _TRUE:
        raise reader.mismatch("a BOOLEAN that is not DER")
    length = members.content(asn1.INTEGER)
    members.finish()
    if len(length) != 1 or length[0] > 0x7F:
        raise reader.mismatch("the path length is not a small number")
    return length[0]


def _next_key(reader: DerReader, extensions: _Extensions) -> str:
    """The hash of the next key (RFC 8649, section 3) in hex; empty if it is not there."""
    extension = extensions.pop(NEXT_KEY, None)
    if extension is None:
        return ""
    if extension.critical:
        raise reader.mismatch("the hash of the next key is critical")
    return read_next_key(extension.value, reader.what).hex()


def _ascii(reader: DerReader, content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise reader.mismatch("a name that is not ASCII") from None


def _check_revoked(entries: DerReader) -> None:
    if entries.next_tag() is None:
        raise entries.mismatch("an empty list of revoked certificates")
    while entries.next_tag() is not None:
        entry = entries.enter(asn1.SEQUENCE)
        _check_serial(entry)
        _time(entry)
        if entry.next_tag() is not None:
            _check_reason(entry)
        entry.finish()


def _check_reason(entry: DerReader) -> None:
    extensions = entry.enter(asn1.SEQUENCE)
    extension = extensions.enter(asn1.SEQUENCE)
    extensions.finish()
    if extension.content(asn1.OBJECT_IDENTIFIER) != REASON_CODE:
        raise entry.mismatch("an entry has an extension other than the reason")
    value = DerReader(extension.content(_OCTET_STRING), entry.what)
    extension.finish()
    reason = value.content(_ENUMERATED)
    value.finish()
    if len(reason) != 1 or reason[0] not in _REASONS:
        raise entry.mismatch("an entry has a reason that is not given here")
