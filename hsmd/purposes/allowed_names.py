"""The constraint of the purpose `x509-request`: the names for which certificates may be requested with a key.

A name is allowed if it is one of the names listed, or if its first label replaced by `*` gives one of them. So
`*.example.com` allows `www.example.com`, and the wildcard `*.example.com` itself, which covers no other names
(RFC 9525, section 6.3); it allows neither `example.com` nor `a.b.example.com`. Names are compared in lower case.

The subject may hold an allowed name as its only common name, and nothing else. Addresses and names of other kinds are
not allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes import asn1
from hsmd.purposes.asn1 import DerReader
from hsmd.purposes.host_names import WILDCARD, host_name

MAX_ALLOWED = 100
"""Most names in one list, as many as a certificate can have."""
_WHAT = "a certification request for allowed names"
_VERSION_1 = b"\0"
_COMMON_NAME = bytes.fromhex("0603550403")
_EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")
_SUBJECT_ALT_NAME = bytes.fromhex("0603551d11")
_CRITICAL = bytes.fromhex("0101ff")
_BOOLEAN, _OCTET_STRING, _UTF8_STRING, _PRINTABLE_STRING = 0x01, 0x04, 0x0C, 0x13
_DNS_NAME = 0x82
"""dNSName [2] IMPLICIT IA5String (RFC 5280, section 4.2.1.6)."""


class _Document(Struct, forbid_unknown_fields=True, frozen=True):
    names: Annotated[list[str], Meta(min_length=1, max_length=MAX_ALLOWED)]


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """A list of allowed names, in lower case. Made by `of` or `parse`."""

    names: frozenset[str]

    @classmethod
    def of(cls, names: Sequence[str]) -> AllowedNames:
        """The list that a user gives. Raises BadRequest naming the name at fault."""
        if not 1 <= len(names) <= MAX_ALLOWED:
            raise BadRequest(f"names: give 1 to {MAX_ALLOWED} allowed names")
        return cls(frozenset(host_name("names", name) for name in names))

    @classmethod
    def parse(cls, text: str) -> AllowedNames:
        """The inverse of `to_json`. Raises BadRequest for anything else, such as constraints of a later release."""
        try:
            document = msgspec.json.decode(text, type=_Document)
        except (msgspec.MsgspecError, UnicodeError):
            raise BadRequest("constraints: this release does not know them") from None
        return cls.of(document.names)

    def to_json(self) -> str:
        """The one canonical form: JSON without spaces, each name once, in order."""
        return msgspec.json.encode(_Document(sorted(self.names))).decode()

    def allows(self, name: str) -> bool:
        """Whether a certificate for this name may be requested."""
        host = name.lower()
        _, dot, parent = host.partition(".")
        return host in self.names or (bool(dot) and WILDCARD + parent in self.names)

    def check_fields(
        self, common_name: str, dns_names: Sequence[str], ip_addresses: Sequence[str], organization: str
    ) -> None:
        """Check a request before it is built. Raises BadRequest naming the field."""
        if organization:
            raise BadRequest("organization: the grant allows host names only; leave it out")
        if ip_addresses:
            raise BadRequest("ip_addresses: the grant allows host names only; leave them out")
        for field, names in (("common_name", [common_name] if common_name else []), ("dns_names", dns_names)):
            for name in names:
                host_name(field, name)
                if not self.allows(name):
                    raise BadRequest(f"{field}: the grant does not allow {name}; ask an operator")

    def check_info(self, data: bytes) -> None:
        """Check the DER CertificationRequestInfo that is to be signed (RFC 2986, section 4.1).

        Raises PurposeMismatch for a name that is not allowed, and for everything but names.
        """
        outer = DerReader(data, _WHAT)
        info = outer.enter(asn1.SEQUENCE)
        outer.finish()
        if info.content(asn1.INTEGER) != _VERSION_1:
            raise info.mismatch("the version is not v1")
        self._check_subject(info.enter(asn1.SEQUENCE))
        info.whole(asn1.SEQUENCE)  # subjectPKInfo, which the worker compares with the key
        self._check_attributes(info.enter(asn1.CONTEXT_0))
        info.finish()

    def _check_subject(self, subject: DerReader) -> None:
        if subject.next_tag() is None:
            return
        names = subject.enter(asn1.SET)
        attribute = names.enter(asn1.SEQUENCE)
        if attribute.whole(asn1.OBJECT_IDENTIFIER) != _COMMON_NAME:
            raise subject.mismatch("the subject holds more than a common name")
        tag = attribute.next_tag()
        if tag not in (_UTF8_STRING, _PRINTABLE_STRING):
            raise subject.mismatch("the common name is not a host name")
        self._check_name(attribute.content(tag))
        for each in (attribute, names, subject):
            each.finish()

    def _check_attributes(self, attributes: DerReader) -> None:
        if attributes.next_tag() is None:
            return
        attribute = attributes.enter(asn1.SEQUENCE)
        if attribute.whole(asn1.OBJECT_IDENTIFIER) != _EXTENSION_REQUEST:
            raise attributes.mismatch("an attribute other than extensionRequest")
        values = attribute.enter(asn1.SET)
        extensions = values.enter(asn1.SEQUENCE)
        extension = extensions.enter(asn1.SEQUENCE)
        if extension.whole(asn1.OBJECT_IDENTIFIER) != _SUBJECT_ALT_NAME:
            raise attributes.mismatch("an extension other than subjectAltName")
        if extension.next_tag() == _BOOLEAN and extension.whole(_BOOLEAN) != _CRITICAL:
            raise attributes.mismatch("a BOOLEAN that is not DER")
        self._check_alternative_names(extension.content(_OCTET_STRING))
        for each in (extension, extensions, values, attribute, attributes):
            each.finish()

    def _check_alternative_names(self, value: bytes) -> None:
        outer = DerReader(value, _WHAT)
        names = outer.enter(asn1.SEQUENCE)
        outer.finish()
        while (tag := names.next_tag()) is not None:
            if tag != _DNS_NAME:
                raise names.mismatch("an alternative name that is not a DNS name")
            self._check_name(names.content(tag))

    def _check_name(self, content: bytes) -> None:
        try:
            name = host_name("name", content.decode("ascii"))
        except (UnicodeDecodeError, BadRequest):
            raise PurposeMismatch(f"not {_WHAT}: a name that is not a host name") from None
        if not self.allows(name):
            raise PurposeMismatch(f"not {_WHAT}: {name} is not allowed")
