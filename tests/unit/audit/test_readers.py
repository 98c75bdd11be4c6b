"""The rule that decides which records a client may read, at the bounds of its times."""

from __future__ import annotations

from typing import Any

import pytest

from hsmd.daemon.audit.readers import ALWAYS, BEGIN, END, Reader
from hsmd.transparency.records import Record

KEY, OTHER = "ab" * 32, "cd" * 32


def time(second: int) -> str:
    return f"2026-03-04T12:00:{second:02}.000000Z"


def record(event: str, second: int, **members: Any) -> Record:
    return Record(7, "0" * 64, time(second), event, **members)


def control(second: int, op: str = "key.rename", by: str = "ann", **fields: str) -> Record:
    return record("control.done", second, client=by, fields={"op": op, **fields})


@pytest.mark.parametrize(
    ("second", "readable"),
    [(9, False), (10, True), (19, True), (20, False), (29, False), (30, True), (59, True)],
)
def test_records_about_a_key_count_from_a_time_until_before_another(second: int, readable: bool) -> None:
    spans = ((time(10), time(20)), (time(30), END))
    owner = Reader("team", keys={KEY: spans}, names={"www": spans})
    for about in (
        record("attempt", second, client="web", key=KEY),
        record("refusal", second, client="web", key=KEY),
        control(second, target_name="www"),
        control(second, target_name="renamed", target_digest=KEY),
        record("grant.used", second, client="web", fields={"attempt": 1, "key": KEY}),
    ):
        assert owner.may_read(about) is readable


def test_a_digest_decides_and_not_the_name_beside_it() -> None:
    owner = Reader("team", keys={KEY: ALWAYS}, names={"www": ALWAYS})
    assert not owner.may_read(control(1, target_name="www", target_digest=OTHER))
    assert owner.may_read(control(1, target_name="other", target_digest=KEY))
    assert not owner.may_read(control(1, target_name="other"))
    assert owner.may_read(control(1, target_name="www"))
    assert not owner.may_read(control(1, "log.discontinuity", key=KEY)), (
        "a field of that name in another event"
    )


@pytest.mark.parametrize("second", [9, 10])
def test_a_name_of_a_client_counts_from_the_time_at_which_it_got_it(second: int) -> None:
    web = Reader("web", since=time(10))
    for about in (
        record("attempt", second, client="web", key=KEY),
        record("refusal", second, client="web", key=KEY),
        control(second, "client.add", target_name="web"),
        control(second, "key.generate", target_name="www", target_owner="web"),
        control(second, by="web"),
        record("client.connected", second, client="web"),
    ):
        assert web.may_read(about) is (second >= 10)
        assert not Reader("other", since=BEGIN).may_read(about)
        assert Reader("other", everything=True).may_read(about)


def test_records_that_are_about_no_client_and_no_key_are_for_operators_and_auditors() -> None:
    for about in (record("log.checkpoint", 1), record("daemon.started", 1), control(1, "token.clear", by="")):
        assert not Reader("web", keys={KEY: ALWAYS}, names={"www": ALWAYS}).may_read(about)


def test_the_owner_of_a_vault_reads_who_checked_its_keys() -> None:
    checked = record("vault.checked", 10, client="web", fields={"owner": "owen", "verdict": "match"})
    assert Reader("owen").may_read(checked)
    assert Reader("web").may_read(checked)
    assert not Reader("other").may_read(checked)
    assert not Reader("owen", since=time(11)).may_read(checked), "its namesake before"
    other = record("control.begun", 10, client="web", fields={"op": "x", "owner": "owen"})
    assert not Reader("owen").may_read(other)
