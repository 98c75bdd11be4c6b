"""What all control requests have in common: their base, and the shapes of names, texts and pages."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

MAX_PAGE = 500

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")]
"""Names of keys and clients: also SSH user names and certificate principals, so no character that needs quoting."""
Text = Annotated[str, Meta(max_length=256)]
PurposeLabel = Annotated[str, Meta(max_length=32)]
Pem = Annotated[str, Meta(max_length=60_000)]
DnsName = Annotated[str, Meta(max_length=253)]
Page = Annotated[int, Meta(ge=1, le=MAX_PAGE)]


class Request(Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all control requests. `Result` is the type of the answer."""

    Result: ClassVar[type[Struct]]


class Done(Struct):
    """The answer to a request that only changes something."""

    changed: bool = True
