"""Admission: limits, and that neither addresses nor clients can take all connections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.admission import LOGIN_GRACE_S, Admission

LIMITS = LimitsConfig(
    startups=4,
    login_s=10,
    auth_tries=6,
    connections=40,
    channels_per_connection=4,
    open_requests=512,
    client_rate=20_000,
    client_open=1_024,
    queue=4_096,
    drain_s=10,
)


@dataclass(eq=False)
class Newcomer:
    peer: str
    dropped: str = ""
    blamed: bool = False

    def drop(self, reason: str, *, blamed: bool = True) -> None:
        self.dropped, self.blamed = reason, blamed


def test_the_number_of_pending_logins_is_limited() -> None:
    admission = Admission(LIMITS)
    first = [Newcomer("a") for _ in range(4)]
    assert all(admission.may_start(each) for each in first)
    assert not admission.may_start(Newcomer("a"))
    admission.stopped(first[0])
    assert admission.may_start(Newcomer("a"))


def test_an_address_that_has_all_connections_loses_one_to_another() -> None:
    admission = Admission(LIMITS)
    earlier = [Newcomer("a") for _ in range(4)]
    for each in earlier:
        admission.may_start(each)
    assert admission.may_start(Newcomer("b"))
    assert [bool(each.dropped) for each in earlier] == [True, False, False, False], (
        "the oldest connection is dropped"
    )
    admission.stopped(earlier[0])  # asyncssh reports the dropped connection later
    assert admission.starting == 4
    assert admission.may_start(Newcomer("b"))
    assert not admission.may_start(Newcomer("b")), "each address has two connections"
    assert not admission.may_start(Newcomer("a"))


def test_the_connections_of_a_client_are_limited() -> None:
    admission = Admission(LIMITS)

    def log_in(client: str) -> bool:
        newcomer = Newcomer("a")
        return admission.may_start(newcomer) and admission.started(newcomer, client)

    assert sum(log_in("busy") for _ in range(20)) == 10
    assert sum(log_in("other") for _ in range(5)) == 5
    assert admission.starting == 0
    admission.ended("busy", "a")
    assert log_in("busy")
    assert admission.connections == 15


def test_all_connections_together_are_limited() -> None:
    admission = Admission(replace(LIMITS, connections=3))
    newcomers = [Newcomer("a") for _ in range(4)]
    assert all(admission.may_start(each) for each in newcomers)
    assert [admission.started(each, f"c{number}") for number, each in enumerate(newcomers)] == [
        True,
        True,
        True,
        False,
    ]
    assert not admission.may_start(Newcomer("b"))
    admission.ended("c0", "a")
    assert admission.may_start(Newcomer("b"))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "stop", "in", "out"])), max_size=200)
)
def test_counts_match_the_open_connections(steps: list[tuple[str, str]]) -> None:
    admission = Admission(replace(LIMITS, connections=12))
    starting: list[Newcomer] = []
    inside: list[str] = []
    for peer, step in steps:
        mine = [each for each in starting if each.peer == peer and not each.dropped]
        if step == "start":
            newcomer = Newcomer(peer)
            if admission.may_start(newcomer):
                starting.append(newcomer)
        elif step == "out" and peer in inside:
            admission.ended(peer, "a")
            inside.remove(peer)
        elif step in ("stop", "in") and mine:
            starting.remove(mine[0])
            if step == "in" and admission.started(mine[0], peer):
                inside.append(peer)
            elif step == "stop":
                admission.stopped(mine[0])
        assert admission.starting == sum(not each.dropped for each in starting) <= 4
        assert admission.connections == len(inside) <= 12


@pytest.mark.parametrize("times", [1, 2])
def test_the_end_of_a_connection_that_was_not_admitted_has_no_effect(times: int) -> None:
    admission = Admission(LIMITS)
    for _ in range(times):
        admission.stopped(Newcomer("x"))
    assert admission.starting == 0


def test_idle_connections_from_many_addresses_block_no_client() -> None:
    """If all addresses have equally many connections, one of them or the newcomer is dropped at random."""
    drawn: list[int] = []

    def draw(below: int) -> int:
        drawn.append(below)
        return (len(drawn) * 3) % below

    now = [0.0]
    admission = Admission(LIMITS, draw=draw, clock=lambda: now[0])
    earlier = [Newcomer(f"10.0.0.{number}") for number in range(4)]
    assert all(admission.may_start(each) for each in earlier)
    assert not admission.may_start(Newcomer("10.0.1.0")), "a login gets some time"
    now[0] = LOGIN_GRACE_S
    assert admission.may_start(Newcomer("10.0.1.1")), "the fourth of five is dropped"
    assert drawn == [5]
    assert [bool(each.dropped) for each in earlier] == [False, False, False, True]
    assert admission.starting == 4


def test_the_newcomer_may_be_the_one_that_is_dropped() -> None:
    now = [0.0]
    admission = Admission(LIMITS, draw=lambda below: below - 1, clock=lambda: now[0])
    earlier = [Newcomer(f"10.0.0.{number}") for number in range(4)]
    assert all(admission.may_start(each) for each in earlier)
    now[0] = LOGIN_GRACE_S
    assert not admission.may_start(Newcomer("10.0.1.1"))
    assert not any(each.dropped for each in earlier)
    assert admission.refused == 1


def test_a_source_that_keeps_failing_is_refused_at_once() -> None:
    admission = Admission(LIMITS, clock=lambda: 0.0)
    refused = []
    for _ in range(5):
        newcomer = Newcomer("192.0.2.1")
        if admission.may_start(newcomer):
            admission.stopped(newcomer)
            refused.append(admission.offended(newcomer, 5.0))
    assert refused == [False, False, False, True]
    assert admission.refused == 1
    assert admission.may_start(Newcomer("192.0.2.2"))


@pytest.mark.parametrize("crowd", ["2001:db8:1:2::{}", "::ffff:192.0.2.1", "fe80::{}%eth0"])
def test_all_addresses_of_one_source_share_what_one_source_gets(crowd: str) -> None:
    """A host with a /64 opens connections from a new address each time, and never logs in."""
    admission = Admission(LIMITS)
    idle: list[Newcomer] = []
    for number in range(1, 400):
        newcomer = Newcomer(crowd.format(f"{number:x}"))
        if admission.may_start(newcomer):
            idle.append(newcomer)
        if number % 10 == 0:
            other = Newcomer("2001:db8:9::1")
            assert admission.may_start(other), f"after {number}"
            assert admission.started(other, "web")
            admission.ended("web", other.peer)
    evicted = [each for each in idle if each.dropped]
    assert len(evicted) == 39
    assert all(each.blamed for each in evicted), "each counts against its source"


def test_a_source_is_not_blamed_for_the_luck_of_the_draw() -> None:
    now = [0.0]
    admission = Admission(LIMITS, draw=lambda below: 0, clock=lambda: now[0])
    earlier = [Newcomer(f"2001:db8:0:{number}::1") for number in range(4)]
    assert all(admission.may_start(each) for each in earlier)
    now[0] = LOGIN_GRACE_S
    assert admission.may_start(Newcomer("2001:db8:0:9::1"))
    assert (bool(earlier[0].dropped), earlier[0].blamed) == (True, False)


def test_a_source_that_a_client_logged_in_from_goes_before_strangers() -> None:
    """Strangers with a network each, whose connections are all young, keep no client out that was here before."""
    admission = Admission(LIMITS, draw=lambda below: below - 1, clock=lambda: 0.0)
    known = Newcomer("192.0.2.1")
    admission.may_start(known)
    admission.started(known, "web")
    strangers = [Newcomer(f"2001:db8:0:{number}::1") for number in range(5)]
    assert [admission.may_start(each) for each in strangers] == [True] * 4 + [False]
    again = Newcomer("192.0.2.1")
    assert admission.may_start(again)
    assert sum(bool(each.dropped) for each in strangers) == 1
    assert not admission.may_start(Newcomer("192.0.2.1")), "it gets no more connections than others"


def test_clients_that_come_back_together_do_not_end_each_others_logins() -> None:
    """Each has an address of its own, and a login takes a tenth of a second."""
    now = [0.0]
    admission = Admission(LIMITS, clock=lambda: now[0])
    clients = [Newcomer(f"10.0.0.{number}") for number in range(200)]
    waiting, logging_in, logged_in = list(clients), list[Newcomer](), 0
    while now[0] < 10.0 and logged_in < len(clients):
        now[0] += 0.1
        for each in logging_in:
            assert not each.dropped
            admission.stopped(each)
        logged_in += len(logging_in)
        logging_in = [each for each in waiting if admission.may_start(each)]
        waiting = [each for each in waiting if each not in logging_in]
    assert logged_in == len(clients)


def test_it_is_known_who_is_connected_and_when_others_were() -> None:
    now = [datetime(2026, 3, 4, tzinfo=UTC)]
    admission = Admission(LIMITS, now=lambda: now[0])
    assert admission.activity("web1") == (0, None)
    assert admission.started(Newcomer("a"), "web1")
    assert admission.activity("web1") == (1, now[0])
    now[0] += timedelta(hours=1)
    admission.ended("web1", "a")
    assert admission.activity("web1") == (0, now[0])
