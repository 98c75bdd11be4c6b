"""Comparing distinguished names as RFC 5280, section 7.1, requires: not by their bytes."""

from __future__ import annotations

import unicodedata

from cryptography import x509

_MAPPED_TO_NOTHING = ("Cc", "Cf")
_SHOWN = 60

NormalisedName = tuple[frozenset[tuple[str, str]], ...]


def same_name(first: x509.Name, second: x509.Name) -> bool:
    """Whether two names are one: the kind of string, case, white space and order within an RDN do not matter."""
    return normalised(first) == normalised(second)


def normalised(name: x509.Name) -> NormalisedName:
    """What two equal names have in common: their RDNs in order, each a set of types and prepared values (RFC 4518)."""
    return tuple(
        frozenset((attribute.oid.dotted_string, _prepared(attribute.value)) for attribute in rdn)
        for rdn in name.rdns
    )


def shown(name: x509.Name) -> str:
    """A name for messages: short and printable."""
    try:
        text = name.rfc4514_string()
    except ValueError:
        text = "?"
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")[1:-1] or "no subject"


def _prepared(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return value.hex()
    kept = "".join(
        " " if character.isspace() else character
        for character in value
        if character.isspace() or unicodedata.category(character) not in _MAPPED_TO_NOTHING
    )
    return " ".join(unicodedata.normalize("NFKC", kept.casefold()).split())
