"""Source penalties: sources (`sources.py`) whose connections are refused for a while because logins from them failed.

Each offence adds seconds to the penalty of its source, which expire as time passes. A source is refused while more than
`TOLERATED_S` are left: a few mistakes are free, and a source that goes on gets one try whenever an offence has expired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address

from hsmd.daemon.config.settings import Network
from hsmd.daemon.front.ssh.sources import source_of

LOGIN_FAILED_S = 5.0
"""The peer offered keys, certificates or tokens, and none was accepted."""
LOGIN_TIMED_OUT_S = 10.0
"""The peer kept the connection without logging in until the time was up."""
LEFT_S = 2.0
"""The peer disconnected before the login, did not speak SSH, or was dropped because its source had the most logins open."""
TOLERATED_S = 15.0
MOST_S = 60.0
KNOWN_S = 600.0
"""A source is never refused for this long after a client logged in from it or such a connection ended: its network may be bad."""
MANY = 4_096
"""Sources that are remembered; beyond that, the one that expires first is forgotten."""


class SourcePenalties:
    """Penalties by source."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._penalty_ends: dict[str, float] = {}
        self._known_until: dict[str, float] = {}

    def refuses(self, peer: str, exempt: Sequence[Network]) -> bool:
        """Whether a new connection from this address is refused. `exempt`: networks that never are."""
        if self._penalty_ends.get(source_of(peer), 0.0) - self._clock() <= TOLERATED_S:
            return False
        return not self.knows(source_of(peer)) and not _within(peer, exempt)

    def offended(self, peer: str, seconds: float) -> bool:
        """Add to the penalty of a source; return whether it is refused from now on and was not before."""
        now, source = self._clock(), source_of(peer)
        left = max(0.0, self._penalty_ends.get(source, 0.0) - now)
        more = min(MOST_S, left + seconds)
        _remember(self._penalty_ends, source, now + more, now)
        return left <= TOLERATED_S < more and not self.knows(source)

    def trust(self, peer: str) -> None:
        """A client logged in from this address, or a connection ended on which it had."""
        now = self._clock()
        _remember(self._known_until, source_of(peer), now + KNOWN_S, now)

    def knows(self, source: str) -> bool:
        """Whether a client has logged in from this source not long ago."""
        return self._known_until.get(source, 0.0) > self._clock()


def _within(peer: str, networks: Sequence[Network]) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:  # the peer has gone already, and has no address any more
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def _remember(table: dict[str, float], source: str, ends: float, now: float) -> None:
    if source not in table and len(table) >= MANY:
        expired = [name for name, end in table.items() if end <= now]
        for name in expired or [min(table, key=table.__getitem__)]:
            del table[name]
    table[source] = ends
