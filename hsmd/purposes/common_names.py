"""Common names: of subjects and authorities, when two are the same, and which ones readers take for hosts or mailboxes.

Names are certified as bytes, and compared by verifiers without case, kind of string and runs of spaces (RFC 5280, section 7.1;
RFC 4518). What is the same for one of them is the same here.
"""

from __future__ import annotations

import unicodedata

from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.purposes import asn1
from hsmd.purposes.asn1 import DerReader

MAX_CHARACTERS = 64
"""ub-common-name (RFC 5280, appendix A.1)."""
_UTF8_STRING, _PRINTABLE_STRING = 0x0C, 0x13
_COMMON_NAME = bytes.fromhex("550403")
_INVISIBLE = frozenset({"Mn", "Me", "Cf"})
_SOFT_HYPHEN_OF_TODO = "\u1806"
"""RFC 4518, section 2.2, maps it to nothing, as marks and format characters."""
_FULL_STOPS = str.maketrans(dict.fromkeys("\u3002\uff61", "."))
"""What else IDNA takes for a dot between labels (RFC 3490, section 3.1); NFKC maps the other ones."""


def subject_common_name(outer: DerReader) -> str | None:
    """The common name of a Name that holds nothing else; None for an empty one. Raises PurposeMismatch."""
    return _read(outer)[1]


def _read(outer: DerReader) -> tuple[int | None, str | None]:
    """Kind of string, and text."""
    subject = outer.enter(asn1.SEQUENCE)
    outer.finish()
    if subject.next_tag() is None:
        return None, None
    names = subject.enter(asn1.SET)
    attribute = names.enter(asn1.SEQUENCE)
    if attribute.content(asn1.OBJECT_IDENTIFIER) != _COMMON_NAME:
        raise subject.mismatch("the subject holds more than a common name")
    tag = attribute.next_tag()
    if tag not in (_UTF8_STRING, _PRINTABLE_STRING):
        raise subject.mismatch("the common name is in another kind of string than UTF8String")
    content = attribute.content(tag)
    for each in (attribute, names, subject):
        each.finish()
    try:
        name = content.decode()
    except UnicodeDecodeError:
        raise subject.mismatch("the common name is not UTF-8") from None
    if not 1 <= len(name) <= MAX_CHARACTERS or not name.isprintable():
        raise subject.mismatch(f"the common name is not of 1 to {MAX_CHARACTERS} printable characters")
    return tag, name


def common_name_of(name: bytes) -> str:
    """The common name of a DER Name that holds nothing else. Raises PurposeMismatch."""
    return subject_common_name(DerReader(name, "a name")) or ""


def check_authority_name(name: bytes) -> None:
    """Refuse another name of an authority than one common name in UTF8String. Raises BadRequest."""
    try:
        kind, found = _read(DerReader(name, "a name"))
    except PurposeMismatch as mismatch:
        raise BadRequest(
            f"name: {mismatch.text}; an authority has one common name and nothing else"
        ) from None
    if kind != _UTF8_STRING or found is None:
        raise BadRequest("name: it is empty, or no UTF8String")
    if found != " ".join(found.split()) or not canonical(found):
        raise BadRequest(
            "name: it has a space at an end, two together, or no visible character; leave the spaces out"
        )


def canonical(name: str) -> str:
    """The same text for all names that some verifier takes for the same: never longer apart than any of them compares."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = (each for each in folded if unicodedata.category(each) not in _INVISIBLE)
    return " ".join("".join(kept).replace(_SOFT_HYPHEN_OF_TODO, "").split())


def may_be_host_or_mailbox(name: str) -> bool:
    """Whether some reader takes a common name for a host, an address, a wildcard or a mailbox; a single word is none."""
    plain = unicodedata.normalize("NFKC", name.translate(_FULL_STOPS)).translate(_FULL_STOPS)
    return plain.strip() != plain or plain.casefold() == "localhost" or any(each in plain for each in ".@:*")
