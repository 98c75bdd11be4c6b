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
    source_of,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tries_let_through(sources: SourcePenalties, clock: Clock, seconds: int, peer: str = "192.0.2.1") -> int:
    let_through = 0
    for _ in range(seconds * 10):
        clock.now += 0.1
        if not sources.refuses(peer, ()):
            let_through += 1
            sources.offended(peer, LOGIN_FAILED_S)
    return let_through


def test_a_few_mistakes_are_free_and_then_one_try_each_time_an_offence_has_run_off(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    assert [sources.offended("192.0.2.1", LOGIN_FAILED_S) for _ in range(4)] == [False, False, False, True]
    assert sources.refuses("192.0.2.1", ())
    assert not sources.refuses("192.0.2.2", ())
    assert 180 <= tries_let_through(sources, clock, 1_000) <= 210


def test_penalties_run_off_and_have_a_top(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    for _ in range(1_000):
        sources.offended("192.0.2.1", LOGIN_FAILED_S)
    clock.now += MOST_S - TOLERATED_S - 1
    assert sources.refuses("192.0.2.1", ())
    clock.now += 2
    assert not sources.refuses("192.0.2.1", ())


def test_where_a_client_logged_in_no_connection_is_refused_for_a_while(clock: Clock) -> None:
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
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_cannot_hide_in_its_own_network(peer: str, source: str) -> None:
    assert source_of(peer) == source


def test_what_is_remembered_is_bounded_and_the_worst_stay(clock: Clock) -> None:
    sources = SourcePenalties(clock)
    for _ in range(20):
        sources.offended("192.0.2.1", LOGIN_FAILED_S)
    for number in range(MANY + 500):
        sources.offended(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", LOGIN_FAILED_S)
    assert len(sources._penalty_ends) == MANY
    assert sources.refuses("192.0.2.1", ())
