"""Network addresses as text: `192.0.2.1:7440`, `[2001:db8::1]:7440`, `hsm.example.net`. Pure.

Every address that a user writes, in a file or on the command line, for a daemon or an agent, is read here.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass

DEFAULT_PORT = 7440
"""Where a daemon listens unless it is configured otherwise."""
MAX_PORT = 65_535
_LABEL = r"[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_ZONE = re.compile(r"[a-zA-Z0-9_.-]{1,15}\Z")
"""Name or number of a network interface; Linux has names of at most 15 characters."""
_NUMERIC = re.compile(r"([0-9]+|0[xX][0-9a-fA-F]*)\Z")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address that a process listens on; `host` is a literal IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_address(self.host, self.port)


def split_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """(host, port) of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.

    Raises ValueError, which says what is wrong, unless the host has the form of a name or address and the port, if there is
    one, is a number from 0 to 65535.
    """
    host, port = _parts(text)
    if fault := host_fault(host):
        raise _refused(text, f": {fault}")
    if not port:
        return host, default_port
    if not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > MAX_PORT:
        raise _refused(text, f": it has no valid port, a number from 1 to {MAX_PORT}")
    return host, int(port)


def listen_address(text: str, default_port: int = DEFAULT_PORT) -> ListenAddress:
    """The address `192.0.2.1:7440` or `[2001:db8::1]:7440`; the port may be missing. Raises ValueError with the reason."""
    host, port = split_address(text, default_port)
    if _address(host.partition("%")[0]) is None:
        raise ValueError(f"{text!r} is a host name; give the literal IP address that it stands for")
    return ListenAddress(host, port)


def _parts(text: str) -> tuple[str, str]:
    """Host and port, empty if there is none, of a text that may be an address. Raises ValueError."""
    if fault := _not_an_address(text):
        raise _refused(text, f": {fault}")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or rest == ":":
            raise _refused(text, f" like [2001:db8::1]:{DEFAULT_PORT}")
        if _address(host.partition("%")[0]) is None or ":" not in host:
            raise _refused(text, ": brackets are for IPv6 addresses; leave them out")
        return host, rest[1:]
    if text.count(":") > 1:
        return _bare(text), ""
    host, colon, port = text.partition(":")
    if colon and not port:
        raise _refused(text, ": it ends with a colon; write the port behind it, or leave it out")
    return host, port


def _not_an_address(text: str) -> str:
    """Why this has not the form of an address at all; empty if it may have."""
    if not text:
        return "it is empty"
    if text != text.strip():
        return "remove the white space around it"
    if any(character.isspace() or not character.isprintable() for character in text):
        return "it contains white space or a control character"
    if "://" in text:
        return f"leave out {text.partition('://')[0]}://"
    if "/" in text:
        return "it is a path, or an address with a mask; give a host name or an IP address"
    if "@" in text:
        return "leave out the user name before @"
    return ""


def _bare(text: str) -> str:
    """An IPv6 address without brackets. One that could be an address with a port is refused."""
    head, _, tail = text.rpartition(":")
    if _address(head.partition("%")[0]) is not None and tail.isascii() and tail.isdigit() and tail:
        other = f", or [{text}] for the address" if _address(text) is not None else ""
        raise _refused(text, f" without brackets: write [{head}]:{tail} for port {tail}{other}")
    if _address(text.partition("%")[0]) is None:
        raise _refused(text, f": write an IPv6 address in brackets, like [2001:db8::1]:{DEFAULT_PORT}")
    return text


def join_address(host: str, port: int) -> str:
    """`host:port`, IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_fault(text: str) -> str:
    """What is wrong with an IP address, with or without a zone, or a host name; empty if nothing is."""
    bare, percent, zone = text.partition("%")
    address = _address(bare)
    if percent:
        return _zone_fault(address, zone)
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
        return f"a link-local address needs the interface: {text}%eth0"
    if address is not None:
        return ""
    if _NUMERIC.match(text.removesuffix(".").rpartition(".")[2]):
        return "an IPv4 address is four numbers from 0 to 255 without leading zeros"
    if not text.isascii():
        return f"write a name with other characters than ASCII in its encoded form{_encoded(text)}"
    if _HOST_NAME.match(text) is None:
        return "it is neither an IP address nor a host name"
    return ""


def is_host(text: str) -> bool:
    """Whether this is an IP address, with or without a zone, or has the form of a host name."""
    return not host_fault(text)


def _zone_fault(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, zone: str) -> str:
    if not isinstance(address, ipaddress.IPv6Address) or not address.is_link_local:
        return "only a link-local IPv6 address has an interface behind %"
    return "" if _ZONE.match(zone) else f"{zone[:40]!r} is not the name of an interface"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    return None


def _encoded(text: str) -> str:
    with suppress(UnicodeError):
        return f": {text[:80].encode('idna').decode()}"
    return ", which begins with xn--"


def _refused(text: str, reason: str) -> ValueError:
    return ValueError(f"{text[:80]!r} is not an address{reason}")
