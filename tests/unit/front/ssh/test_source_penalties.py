"""Source penalties: how they add up and expire, which sources are never refused, and how many are remembered."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from hsmd.daemon.front.ssh.source_penalties import (
    KNOWN_S,
    LOGIN_FAILED_S,
    MANY,
    MOST_S,
    TOLERATED_S,
    SourcePenalties,
)
from hsmd.daemon.front.ssh.sources import source_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted_tries(sources: SourcePenalties, clock: Clock, seconds: int, peer: str = "192.0.2.1") -> int:
    admitted = 0
    for _ in range(seconds * 10):
        clock.now += 0.1
        if not sources.refuses(peer, ()):
            admitted += 1
            sources.offended(peer, LOGIN_FAILED_S)
    return admitted


def test_a_few_failures_are_free_and_then_tries_are_admitted_as_penalties_expire(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    assert [sources.offended("192.0.2.1", LOGIN_FAILED_S) for _ in range(4)] == [False, False, False, True]
    assert sources.refuses("192.0.2.1", ())
    assert not sources.refuses("192.0.2.2", ())
    assert 180 <= admitted_tries(sources, clock, 1_000) <= 210


def test_penalties_expire_and_are_limited(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    for _ in range(1_000):
        sources.offended("192.0.2.1", LOGIN_FAILED_S)
    clock.now += MOST_S - TOLERATED_S - 1
    assert sources.refuses("192.0.2.1", ())
    clock.now += 2
    assert not sources.refuses("192.0.2.1", ())


def test_sources_of_recent_logins_are_not_refused(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    sources.trust("192.0.2.1")
    assert not any(sources.offended("192.0.2.1", LOGIN_FAILED_S) for _ in range(20))
    assert not sources.refuses("192.0.2.1", ())
    clock.now += KNOWN_S + 1
    assert not any(sources.offended("192.0.2.1", LOGIN_FAILED_S) for _ in range(3))
    assert sources.offended("192.0.2.1", LOGIN_FAILED_S)
    assert sources.refuses("192.0.2.1", ())


@pytest.mark.parametrize(
    ("peer", "network"),
    [("192.0.2.1", "192.0.2.0/24"), ("::ffff:192.0.2.1", "192.0.2.0/24"), ("2001:db8::1", "2001:db8::/32")],
)
def test_exempt_networks_are_never_refused(clock: Clock, peer: str, network: str) -> None:
    sources = SourcePenalties(clock)
    for _ in range(10):
        sources.offended(peer, LOGIN_FAILED_S)
    assert sources.refuses(peer, ())
    assert sources.refuses(peer, (ip_network("198.51.100.0/24"),))
    assert not sources.refuses(peer, (ip_network("198.51.100.0/24"), ip_network(network)))


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::ffff:192.0.2.1%eth0", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64%eth0"),
        ("fe80::2%eth1", "fe80::/64%eth1"),
        ("", ""),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_ipv6_sources_are_counted_by_network(peer: str, source: str) -> None:
    assert source_of(peer) == source


def test_memory_is_bounded_and_keeps_the_worst_sources(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    for _ in range(20):
        sources.offended("192.0.2.1", LOGIN_FAILED_S)
    for number in range(MANY + 500):
        sources.offended(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", LOGIN_FAILED_S)
    assert len(sources._penalty_ends) == MANY
    assert sources.refuses("192.0.2.1", ())
