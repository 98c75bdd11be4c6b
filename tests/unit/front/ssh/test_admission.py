"""Admission: limits, and that neither addresses nor clients can take all connections."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, strategies as st

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.admission import Admission

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

    def drop(self, reason: str) -> None:
        self.dropped = reason


def test_only_so_many_may_be_logging_in() -> None:
    admission = Admission(LIMITS)
    first = [Newcomer("a") for _ in range(4)]
    assert all(admission.may_start(each) for each in first)
    assert not admission.may_start(Newcomer("a"))
    admission.stopped(first[0])
    assert admission.may_start(Newcomer("a"))


def test_an_address_that_has_all_connections_loses_one_to_another() -> None:
    admission = Admission(LIMITS)
    crowd = [Newcomer("a") for _ in range(4)]
    for each in crowd:
        admission.may_start(each)
    assert admission.may_start(Newcomer("b"))
    assert [bool(each.dropped) for each in crowd] == [True, False, False, False], "the oldest"
    admission.stopped(crowd[0])  # asyncssh reports the dropped one later
    assert admission.starting == 4
    assert admission.may_start(Newcomer("b"))
    assert not admission.may_start(Newcomer("b")), "two each is fair"
    assert not admission.may_start(Newcomer("a"))


def test_a_client_has_its_share_of_connections_and_no_more() -> None:
    admission = Admission(LIMITS)

    def log_in(client: str) -> bool:
        newcomer = Newcomer("a")
        return admission.may_start(newcomer) and admission.started(newcomer, client)

    assert sum(log_in("hog") for _ in range(20)) == 10
    assert sum(log_in("other") for _ in range(5)) == 5
    assert admission.starting == 0
    admission.ended("hog", "a")
    assert log_in("hog")
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
def test_counts_never_go_wrong(steps: list[tuple[str, str]]) -> None:
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
def test_the_end_of_what_was_never_admitted_is_harmless(times: int) -> None:
    admission = Admission(LIMITS)
    for _ in range(times):
        admission.stopped(Newcomer("x"))
    assert admission.starting == 0


def test_idle_connections_from_many_addresses_block_no_client() -> None:
    """Where all have equally many, chance decides between them and the newcomer."""
    drawn: list[int] = []

    def draw(below: int) -> int:
        drawn.append(below)
        return (len(drawn) * 3) % below

    admission = Admission(LIMITS, draw=draw)
    crowd = [Newcomer(f"10.0.0.{number}") for number in range(4)]
    assert all(admission.may_start(each) for each in crowd)
    assert admission.may_start(Newcomer("10.0.1.1")), "the fourth of five"
    assert drawn == [5]
    assert [bool(each.dropped) for each in crowd] == [False, False, False, True]
    assert admission.starting == 4


def test_chance_may_also_turn_the_newcomer_away() -> None:
    admission = Admission(LIMITS, draw=lambda below: below - 1)
    crowd = [Newcomer(f"10.0.0.{number}") for number in range(4)]
    assert all(admission.may_start(each) for each in crowd)
    assert not admission.may_start(Newcomer("10.0.1.1"))
    assert not any(each.dropped for each in crowd)
    assert admission.refused == 1


def test_a_source_that_keeps_failing_is_refused_at_once() -> None:
    admission = Admission(LIMITS, clock=lambda: 0.0)
    told = []
    for _ in range(5):
        newcomer = Newcomer("192.0.2.1")
        if admission.may_start(newcomer):
            admission.stopped(newcomer)
            told.append(admission.offended(newcomer, 5.0))
    assert told == [False, False, False, True]
    assert admission.refused == 1
    assert admission.may_start(Newcomer("192.0.2.2"))
