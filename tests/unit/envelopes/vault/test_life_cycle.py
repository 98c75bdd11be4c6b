"""The life cycle of a record: one state and reason from all facts, the term in every mode, nothing that comes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes.vault.answers import Verdict
from hsmd.envelopes.vault.life_cycle import NO_LIMIT, Facts, Reason, State, is_exhausted, is_expired, judge
from hsmd.envelopes.vault.proofs import ProofKind
from hsmd.envelopes.vault.records import Mode, RecordStanding
from hsmd.protocol.messages import vault_enumerations as enumerations

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MOMENTS = st.none() | st.integers(-5, 5).map(lambda seconds: NOW + seconds * SECOND)
FACTS = st.builds(
    Facts,
    standing=st.sampled_from(RecordStanding),
    compromised=st.booleans(),
    suspended=st.booleans(),
    held=st.booleans(),
    ended_at=MOMENTS,
    not_before=MOMENTS,
    not_after=MOMENTS,
    mode=st.sampled_from(Mode),
    max_uses=st.integers(0, 3),
    released=st.integers(0, 4),
    superseded=st.booleans(),
    lost=st.booleans(),
)
A, S, D = State.ACTIVE, State.SUSPENDED, State.DEACTIVATED


@pytest.mark.parametrize(
    ("facts", "state", "reason", "acquirable", "usable"),
    [
        ({}, A, Reason.NONE, True, True),
        ({"not_before": NOW}, A, Reason.NONE, True, True),
        ({"not_before": NOW + SECOND}, State.PRE_ACTIVE, Reason.NOT_YET, False, False),
        ({"not_after": NOW + SECOND}, A, Reason.NONE, True, True),
        ({"not_after": NOW}, D, Reason.EXPIRED, False, False),
        ({"not_after": NOW, "mode": Mode.DENY}, D, Reason.EXPIRED, False, False),
        ({"ended_at": NOW + SECOND, "not_after": NOW + SECOND}, D, Reason.EXPIRED, False, False),
        ({"ended_at": NOW}, D, Reason.EXPIRED, False, False),
        ({"suspended": True}, S, Reason.SUSPENDED, False, False),
        ({"held": True}, S, Reason.RESTORED, False, False),
        ({"lost": True}, S, Reason.LOST_MANAGEMENT_KEY, False, False),
        ({"superseded": True}, D, Reason.SUPERSEDED, True, False),
        ({"max_uses": 3, "released": 2, "mode": Mode.DENY}, A, Reason.NONE, True, True),
        ({"max_uses": 3, "released": 3, "mode": Mode.DENY}, D, Reason.LIMIT, False, False),
        ({"max_uses": 3, "released": 3}, A, Reason.NONE, True, True),
        ({"max_uses": 3, "released": 4}, A, Reason.LIMIT, True, False),
        (
            {"max_uses": 3, "released": 3, "mode": Mode.DENY, "superseded": True},
            D,
            Reason.LIMIT,
            False,
            False,
        ),
        ({"max_uses": 3, "released": 4, "superseded": True}, D, Reason.SUPERSEDED, True, False),
        ({"standing": RecordStanding.REVOKED}, D, Reason.OWNER, False, False),
        (
            {"standing": RecordStanding.COMPROMISED, "compromised": True},
            State.COMPROMISED,
            Reason.OWNER,
            False,
            False,
        ),
        ({"standing": RecordStanding.DESTROYED}, State.DESTROYED, Reason.OWNER, False, False),
        (
            {"standing": RecordStanding.DESTROYED, "compromised": True},
            State.DESTROYED_COMPROMISED,
            Reason.OWNER,
            False,
            False,
        ),
    ],
)
def test_each_fact_has_its_state(
    facts: dict[str, Any], state: State, reason: Reason, acquirable: bool, usable: bool
) -> None:
    found = judge(Facts(**facts), NOW)
    assert (found.state, found.reason, found.acquirable, found.usable) == (state, reason, acquirable, usable)
    assert found.why


def test_the_one_that_weighs_most_decides() -> None:
    """Each line of the order stands above all later ones."""
    order = [
        ({"standing": RecordStanding.DESTROYED}, State.DESTROYED),
        ({"compromised": True}, State.COMPROMISED),
        ({"standing": RecordStanding.REVOKED}, Reason.OWNER),
        ({"not_after": NOW}, Reason.EXPIRED),
        ({"lost": True}, Reason.LOST_MANAGEMENT_KEY),
        ({"held": True}, Reason.RESTORED),
        ({"suspended": True}, Reason.SUSPENDED),
        ({"not_before": NOW + SECOND}, Reason.NOT_YET),
        ({"max_uses": 1, "released": 1, "mode": Mode.DENY}, Reason.LIMIT),
        ({"superseded": True}, Reason.SUPERSEDED),
    ]
    facts: dict[str, Any] = {}
    for change, expected in reversed(order[1:]):
        facts |= change
        found = judge(Facts(**facts), NOW)
        assert expected in (found.state, found.reason), change
    destroyed = judge(Facts(**facts | order[0][0]), NOW)
    assert destroyed.state is State.DESTROYED_COMPROMISED


@pytest.mark.parametrize(
    ("max_uses", "released", "left"), [(0, 9, NO_LIMIT), (3, 0, 3), (3, 3, 0), (3, 5, 0)]
)
def test_the_uses_that_are_left(max_uses: int, released: int, left: int) -> None:
    facts = Facts(max_uses=max_uses, released=released)
    assert judge(facts, NOW).uses_left == left
    assert is_exhausted(facts) == (left == 0)


def test_an_end_that_was_observed_stays_when_the_clock_goes_back() -> None:
    facts = Facts(not_after=NOW, ended_at=NOW)
    earlier = NOW - timedelta(hours=1)
    assert is_expired(facts, earlier)
    assert judge(facts, earlier).reason is Reason.EXPIRED
    assert not is_expired(replace(facts, ended_at=None), earlier)


@given(FACTS, st.booleans())
def test_what_always_holds(facts: Facts, later: bool) -> None:
    found = judge(facts, NOW)
    if found.usable:
        assert found.acquirable
        assert found.state is State.ACTIVE and found.reason is Reason.NONE
        assert not (facts.superseded or facts.suspended or facts.held or facts.lost or facts.compromised)
        assert facts.max_uses == 0 or facts.released <= facts.max_uses
    if found.acquirable:
        assert facts.standing is RecordStanding.LIVE
        assert not is_expired(facts, NOW)
        assert facts.not_before is None or facts.not_before <= NOW
        assert facts.mode is Mode.NOTIFY or not is_exhausted(facts)
    assert (found.state is State.ACTIVE) <= found.acquirable
    for change in (
        {"suspended": True},
        {"held": True},
        {"lost": True},
        {"ended_at": NOW},
        {"superseded": True},
    ):
        worse = judge(replace(facts, **change), NOW)  # type: ignore[arg-type]
        assert worse.acquirable <= found.acquirable and not worse.usable
    assert judge(replace(facts, released=facts.released + 1), NOW).acquirable <= found.acquirable


@given(FACTS)
def test_a_compromised_key_never_looks_better(facts: Facts) -> None:
    found = judge(replace(facts, compromised=True), NOW)
    assert found.state in (State.COMPROMISED, State.DESTROYED_COMPROMISED)
    assert not found.acquirable


def test_the_names_are_those_of_the_protocol() -> None:
    """The same strings stand in control messages, in docs/control.md and in answers."""
    assert set(enumerations.VAULT_STATE.values) == set(State)
    assert set(enumerations.VAULT_REASON.values) == set(Reason)
    assert set(enumerations.VAULT_MODE.values) == set(Mode)
    assert set(enumerations.VAULT_VERDICT.values) == set(Verdict)
    assert set(enumerations.PROOF_KIND.values) == set(enumerations.POSSESSION_KIND.values) == set(ProofKind)
