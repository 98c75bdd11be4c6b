"""Source penalties: the addresses that peers come from, and for how long those that misbehave before they log in are not heard.

Pure but for the clock. Each offence adds seconds to a source's penalty, which run off by themselves. A source is refused while
more than `TOLERATED_S` are left: a few mistakes are free, and who goes on gets one try each time an offence has run off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address

from hsmd.daemon.config.settings import Network

LOGIN_FAILED_S = 5.0
"""Somebody showed keys, certificates or tokens, and none of them would do."""
LOGIN_TIMED_OUT_S = 10.0
"""Somebody held a connection as long as he could without logging in."""
LEFT_S = 2.0
"""Somebody went away before the login, or did not speak SSH."""
TOLERATED_S = 15.0
MOST_S = 60.0
KNOWN_S = 600.0
"""A source is refused nothing for so long after a client logged in from it, or ended there: its network may be bad."""
MANY = 4_096
"""Sources that are remembered; beyond that, those that are over soonest are forgotten."""


class SourcePenalties:
    """Penalties by source: an IPv4 address, or the /64 network of an IPv6 address, because a host has all of that."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._penalty_ends: dict[str, float] = {}
        self._known_until: dict[str, float] = {}

    def refuses(self, peer: str, exempt: Sequence[Network]) -> bool:
        """Whether a new connection from this address is closed at once. `exempt`: networks that never are."""
        if self._penalty_ends.get(source_of(peer), 0.0) - self._clock() <= TOLERATED_S:
            return False
        return not self._known(source_of(peer)) and not _within(peer, exempt)

    def offended(self, peer: str, seconds: float) -> bool:
        """Add to the penalty of a source; True if it is refused from now on and was not before."""
        now, source = self._clock(), source_of(peer)
        left = max(0.0, self._penalty_ends.get(source, 0.0) - now)
        more = min(MOST_S, left + seconds)
        _remember(self._penalty_ends, source, now + more, now)
        return left <= TOLERATED_S < more and not self._known(source)

    def let_in(self, peer: str) -> None:
        """A client proved who it is from this address, or ended a connection on which it had."""
        now = self._clock()
        _remember(self._known_until, source_of(peer), now + KNOWN_S, now)

    def _known(self, source: str) -> bool:
        return self._known_until.get(source, 0.0) > self._clock()


def source_of(peer: str) -> str:
    """What stands for an address: itself for IPv4, also inside IPv6, and its /64 network for IPv6."""
    if ":" not in peer:
        return peer
    address = ip_address(peer.partition("%")[0])
    assert isinstance(address, IPv6Address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def _within(peer: str, networks: Sequence[Network]) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:  # the peer has gone already, and its address with it
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any((mapped or address) in network for network in networks)


def _remember(table: dict[str, float], source: str, ends: float, now: float) -> None:
    if source not in table and len(table) >= MANY:
        for over in [name for name, end in table.items() if end <= now] or [
            min(table, key=table.__getitem__)
        ]:
            del table[over]
    table[source] = ends
