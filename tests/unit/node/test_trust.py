"""Anchors that a node takes from its daemon outside of a rollover: at first all, then only renewed certificates of its keys."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.node.trust import refreshed
from tests.support.node_authority import Clock, NodeAuthority


def test_the_first_anchors_are_those_that_are_offered(authority: NodeAuthority) -> None:
    root = authority.root()
    assert refreshed((), [root]) == (root,)


def test_an_anchor_of_another_key_is_never_taken(authority: NodeAuthority, clock: Clock) -> None:
    held = (authority.root(),)
    for offered in (NodeAuthority(clock).root(), NodeAuthority(clock, common_name="Another CA").root()):
        with pytest.raises(UpdateRefused, match="does not trust"):
            refreshed(held, [*held, offered])


def test_the_certificate_of_an_anchor_is_renewed_by_one_that_ends_later(authority: NodeAuthority) -> None:
    held, longer = authority.root(), authority.root(timedelta(days=2_000))
    assert refreshed((held,), [longer]) == (longer,)
    assert refreshed((longer,), [held]) == (longer,), "an earlier one does not come back"


def test_an_anchor_that_is_not_offered_stays(authority: NodeAuthority, clock: Clock) -> None:
    other = NodeAuthority(clock, common_name="Another CA").root()
    held = (authority.root(), other)
    assert refreshed(held, [held[0]]) == held


def test_a_certificate_that_is_no_anchor_is_refused(authority: NodeAuthority) -> None:
    with pytest.raises(CertificatesInvalid, match="self-signed"):
        refreshed((), [authority.issue(NodeAuthority(authority.clock).key.public_key())])


def test_of_each_key_one_certificate_is_held(authority: NodeAuthority) -> None:
    shorter, longer = authority.root(), authority.root(timedelta(days=2_000))
    assert refreshed((), [shorter, longer]) == (longer,)
    assert refreshed((longer,), [shorter, longer]) == (longer,)
