"""What all control requests share: their base class, what they declare, and the types of names, texts and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from hsmd.protocol.messages.enumerations import KEY_TYPE, PURPOSE, PURPOSE_OR_GROUP, ROLE
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

__all__ = [
    "MAX_PAGE",
    "DnsName",
    "Done",
    "KeyProof",
    "KeyTypeName",
    "Name",
    "Page",
    "Pem",
    "PublicKeyLine",
    "PurposeLabel",
    "PurposeOrGroupLabel",
    "Request",
    "RoleName",
    "RoleNames",
    "Subject",
    "Text",
]

MAX_PAGE = 500

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")]
"""Names of keys and clients: also SSH user names and certificate principals, so no character that needs quoting."""
Text = Annotated[str, Meta(max_length=256)]
KeyTypeName = Annotated[Text, KEY_TYPE.meta]
RoleName = Annotated[Text, ROLE.meta]
RoleNames = Annotated[list[RoleName], Meta(max_length=16)]
PurposeLabel = Annotated[str, Meta(max_length=32), PURPOSE.meta]
PurposeOrGroupLabel = Annotated[str, Meta(max_length=32), PURPOSE_OR_GROUP.meta]
PublicKeyLine = Annotated[str, Meta(max_length=2_000)]
KeyProof = Annotated[str, Meta(max_length=4_000)]
"""A public key as OpenSSH writes it: type, base64, comment."""
Pem = Annotated[str, Meta(max_length=60_000)]
DnsName = Annotated[str, Meta(max_length=253)]
Page = Annotated[int, Meta(ge=1, le=MAX_PAGE)]

OPERATOR = frozenset({Role.OPERATOR})
AUDITOR = frozenset({Role.AUDITOR})
FRONT_END = frozenset({Role.FRONT_END})
OWNER = frozenset({Role.OWNER})
NODE = frozenset({Role.NODE})
ANY_ROLE = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Subject:
    """The members of a request that name the key and the client it is about; empty where there is none.

    The client, and the owners of the key, may read the request's audit records.
    """

    key: str = ""
    client: str = ""


NO_SUBJECT = Subject()


class Request(Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all control requests. A request class declares here all that the daemon's rules need to know of it.

    A class that declares too little cannot be defined: TypeError.
    """

    Result: ClassVar[type[Struct]]
    """The type of the answer."""
    roles: ClassVar[frozenset[Role]]
    """The roles of clients that may make the request."""
    changes: ClassVar[bool]
    """Whether it changes something; changes are recorded in the audit log before and after they take effect."""
    subject: ClassVar[Subject]
    agents: ClassVar[bool] = False
    """Whether agents answer it, too, to each local user."""
    any_key: ClassVar[frozenset[Role]] = OPERATOR | AUDITOR
    """Those of `roles` that may name any key as its subject. A front end needs a grant on it, an owner must own it."""
    needs: ClassVar[Purpose | None] = None
    """The purpose for which a front end needs the grant on the key of the subject; None: any."""
    hashed: ClassVar[frozenset[str]] = frozenset()
    """Strings and lists of which audit records hold the SHA-256 only, as they always do of members of type bytes."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for declared in ("Result", "roles", "changes", "subject"):
            if not hasattr(cls, declared):
                raise TypeError(f"control request {cls.__name__} does not declare `{declared}`")
        if "roles" in cls.__annotations__:
            raise TypeError(
                f"control request {cls.__name__}: a member called `roles` needs a field of another name (msgspec.field)"
            )
        if not cls.roles:
            raise TypeError(f"control request {cls.__name__}: `roles` is empty")
        for member in {*cls.hashed, cls.subject.key, cls.subject.client} - {""}:
            if member not in cls.__annotations__:
                raise TypeError(
                    f"control request {cls.__name__}: `hashed` or `subject` names {member!r}, not a member"
                )

    def implied(self) -> Sequence[Request]:
        """Further requests that this one carries out; each is recorded as well, for the readers of its own subject."""
        return ()

    @classmethod
    def op(cls) -> str:
        """The name of the operation, the value of the member `op`."""
        return str(cls.__struct_config__.tag)


class Done(Struct):
    """The answer to a request that only changes something."""

    changed: bool = True
    """False if everything was already as requested."""
