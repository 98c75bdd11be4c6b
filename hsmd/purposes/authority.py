"""The constraint of the purpose `x509-authority`: what a certificate authority's key may certify (docs/adr/0030).

It is fixed in the key's ceiling when the key is made or adopted, and checked in the worker (`authority_check`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from cryptography import x509
from msgspec import Meta, Struct

from hsmd.errors import BadRequest
from hsmd.purposes.common_names import check_authority_name, may_be_host_or_mailbox
from hsmd.purposes.name_constraints import ANY, NameSet

PROFILES = ("client", "server", "server-client")
"""What a certificate that is not an authority's may be used for: `serverAuth`, `clientAuth`, or both."""
LONGEST_S = 40 * 366 * 86_400
SHORTEST_S = 60
MAX_PATH_LENGTH = 8
MAX_COMMON_NAMES = 50
MAX_NAME_BYTES = 512
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")

Seconds = Annotated[int, Meta(ge=SHORTEST_S, le=LONGEST_S)]


class AuthorityConstraints(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """What one authority's key may sign. Made by `of` or `parse`; its JSON is canonical, sorted and without spaces."""

    name: Annotated[bytes, Meta(min_length=2, max_length=MAX_NAME_BYTES)]
    """The authority's own name: DER Name (RFC 5280, section 4.1.2.4). It is issuer of all that it signs."""
    profiles: list[str]
    """Of `PROFILES`."""
    permitted: NameSet
    excluded: NameSet
    common_names: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=50)]
    """Common names that subjects may have besides host names that are permitted; `*` stands for all."""
    path_length: Annotated[int, Meta(ge=0, le=MAX_PATH_LENGTH)]
    """Most authorities below this one in a chain."""
    leaf_s: Seconds
    """Longest term of certificates that are not an authority's, and of revocation lists."""
    authority_s: Seconds
    """Longest term of certificates of authorities, its own one among them."""
    next_key: str
    """SHA-256, in hex, of the SubjectPublicKeyInfo of the key that will replace this one; empty if none is fixed."""
    next_elsewhere: bool = False
    """Whether that key was made in another token. Of one in the same token it is known what it may be adopted for."""

    @classmethod
    def of(
        cls,
        *,
        name: x509.Name,
        profiles: Sequence[str],
        permitted: NameSet,
        excluded: NameSet,
        common_names: Sequence[str] = (),
        path_length: int,
        leaf_s: int,
        authority_s: int,
        next_key: str = "",
        next_elsewhere: bool = False,
    ) -> AuthorityConstraints:
        """The constraints that a user gives. Raises BadRequest naming the member at fault."""
        made = cls(
            name=name.public_bytes(),
            profiles=sorted(set(profiles)),
            permitted=permitted,
            excluded=excluded,
            common_names=sorted(set(common_names)),
            path_length=path_length,
            leaf_s=leaf_s,
            authority_s=authority_s,
            next_key=next_key,
            next_elsewhere=next_elsewhere,
        )
        return cls.parse(made.to_json())

    @classmethod
    def parse(cls, text: str) -> AuthorityConstraints:
        """The inverse of `to_json`. Raises BadRequest for anything else, such as constraints of a later release."""
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.ValidationError as error:
            raise BadRequest(f"constraints: {error}") from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise BadRequest("constraints: this release does not know them") from None
        _check(found)
        if found.to_json() != text:
            raise BadRequest("constraints: they are not in their canonical form")
        return found

    def to_json(self) -> str:
        """The one canonical form."""
        return msgspec.json.encode(self, order="sorted").decode()

    def document(self) -> Mapping[str, Any]:
        """The JSON object, for a ceiling."""
        document: dict[str, Any] = msgspec.json.decode(self.to_json())
        return document

    def within(self, other: AuthorityConstraints) -> bool:
        """Whether all that these constraints permit is permitted by `other`, too. Names and next keys are not compared."""
        return (
            set(self.profiles) <= set(other.profiles)
            and other.permitted.covers(self.permitted)
            and self.excluded.covers(other.excluded)
            and all(other._has_common_name(name) for name in self.common_names)
            and self.path_length <= other.path_length
            and self.leaf_s <= other.leaf_s
            and self.authority_s <= other.authority_s
        )

    def _has_common_name(self, name: str) -> bool:
        """Whether an entry of common names permits no more than those here; `*` permits nothing that may be a host."""
        if name in self.common_names:
            return True
        return ANY in self.common_names and not may_be_host_or_mailbox(name)


def _check(found: AuthorityConstraints) -> None:
    check_authority_name(found.name)
    if not set(found.profiles) <= set(PROFILES) or found.profiles != sorted(set(found.profiles)):
        raise BadRequest(f"profiles: choose of {', '.join(PROFILES)}")
    if found.permitted.again("permitted") != found.permitted:
        raise BadRequest("permitted: the names are not sorted, in lower case, and each there once")
    if found.excluded.again("excluded") != found.excluded or ANY in found.excluded.dns + found.excluded.email:
        raise BadRequest(
            "excluded: the names are not sorted, in lower case, and each there once, or one is `*`"
        )
    if found.common_names != sorted(set(found.common_names)):
        raise BadRequest("common_names: they are not sorted, and each there once")
    if not all(name.isprintable() and name == name.strip() for name in found.common_names):
        raise BadRequest("common_names: only printable characters are allowed, and no space at either end")
    if not _DIGEST.fullmatch(found.next_key):
        raise BadRequest("next_key: must be a SHA-256 in hexadecimal, or empty")
    if found.next_elsewhere and not found.next_key:
        raise BadRequest("next_elsewhere: there is no next key")
