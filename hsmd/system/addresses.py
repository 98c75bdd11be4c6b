"""Network addresses as text: `192.0.2.1:7440`, `[2001:db8::1]:7440`, `hsm.example.net`. Pure."""

from __future__ import annotations

import ipaddress
import re

DEFAULT_PORT = 7440
"""Where a daemon listens unless it is configured otherwise."""
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")


def split_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """(host, port) of `host`, `host:port`, `[v6]:port` or a bare IPv6 address; the host is not checked.

    Raises ValueError unless brackets are closed and the port, if there is one, is a number from 0 to 65535.
    """
    host, port = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{text[:80]!r} is not an address like [2001:db8::1]:{default_port}")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not port:
        return host, default_port
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65_535:
        raise ValueError(f"{text[:80]!r} has no valid port")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_host(text: str) -> bool:
    """Whether this is an IP address, with or without a zone, or has the form of a host name."""
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return _HOST_NAME.match(text) is not None
    return True
