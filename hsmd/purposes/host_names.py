"""Host names as certificates hold them: exact names, or `*.` and a name for every name with one more label."""

from __future__ import annotations

import re

from hsmd.errors import BadRequest

WILDCARD = "*."
MAX_DNS_NAME = 253
_LONGEST_ECHO = 60
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def host_name(field: str, name: str) -> str:
    """A host name (RFC 1123, section 2.1) or a wildcard for its first label (RFC 9525, section 6.3), in lower case.

    Raises BadRequest, whose text begins with `field`.
    """
    echo = ascii(name[:_LONGEST_ECHO])
    if not name.isascii():
        raise BadRequest(f"{field}: {echo} is not ASCII; give its xn-- form")
    host = name.lower()
    labels = host.removeprefix(WILDCARD).split(".")
    if host.startswith(WILDCARD) and len(labels) < 2:
        raise BadRequest(f"{field}: {echo}: a wildcard must be followed by at least two labels")
    if len(host) > MAX_DNS_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRequest(
            f"{field}: {echo} is not a host name; labels consist of a-z, 0-9 and -, with dots between them"
        )
    if labels[-1].isdigit():
        raise BadRequest(f"{field}: {echo} is an address, not a host name")
    return host
