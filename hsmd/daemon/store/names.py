"""Names of keys and clients as callers give them: the checks before they reach a database."""

from __future__ import annotations

import msgspec

from hsmd.errors import BadRequest, NotFound
from hsmd.protocol.messages import Name

_LONGEST_ECHO = 64


def is_name(text: str) -> bool:
    """Whether a text is a valid name of a key or client (`messages.Name`, as in the wire protocol)."""
    try:
        msgspec.convert(text, Name)
    except msgspec.ValidationError:
        return False
    return True


def check_name(field: str, text: str) -> None:
    """Raises BadRequest naming the field unless the text is a valid name."""
    if not is_name(text):
        raise BadRequest(f"{field}: a name is 1 to 64 of a-z A-Z 0-9 . _ - and starts with a letter or digit")


def unknown(kind: str, name: str) -> NotFound:
    """The error for a name that no object of this kind ("key", "client") has."""
    return NotFound(
        f"there is no {kind} {name[:_LONGEST_ECHO]!r}; `hsmd {kind} list` shows the existing ones"
    )


def searchable(name: str) -> str:
    """A name to search for; text that is no valid name (NUL, lone surrogates, ...) never reaches a driver."""
    return name if is_name(name) else "?"


def pair_after(after: str, what: str) -> tuple[str, str]:
    """The position in a list of pairs of names: "name/name", or "". Raises BadRequest for anything else."""
    first, separator, second = after.partition("/")
    if after and not (separator and is_name(first) and is_name(second)):
        raise BadRequest(f"after: must be {what} of the previous page, or empty")
    return first, second


def check_after(name: str) -> str:
    """The position in a list: the last name of the previous page or "". Raises BadRequest for anything else."""
    if name and not is_name(name):
        raise BadRequest("after: must be the last name of the previous page, or empty")
    return name
