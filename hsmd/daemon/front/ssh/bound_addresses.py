"""The addresses that the SSH listener is bound to at present, and what clients pin there."""

from __future__ import annotations

from dataclasses import dataclass, field

from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role
from hsmd.system.addresses import ListenAddress


@dataclass(slots=True)
class BoundAddresses:
    """Set by the listener whenever a configuration is applied; empty before the first."""

    all: list[ListenAddress] = field(default_factory=list)
    """With the ports that the system chose where port 0 was configured."""
    for_operators: list[ListenAddress] = field(default_factory=list)
    """Those of `all` that are for operators and auditors; all of them if none is configured for these alone."""
    host_key_line: str = ""
    """The public host key as an OpenSSH line."""
    pins: list[str] = field(default_factory=list)
    """Lines to pin: the host CA behind `cert-authority ` if there is a host certificate, else the host key."""

    def __str__(self) -> str:
        return ", ".join(str(address) for address in self.all)

    def for_roles(self, roles: frozenset[Role]) -> tuple[list[str], list[str]]:
        """Addresses that a client with these roles enrols at, and the lines that it pins."""
        addresses = self.for_operators if roles & AT_OPERATOR_ADDRESSES else self.all
        return [str(address) for address in addresses], self.pins
