"""Enrolment by peers without a valid token: few records, and an answer even if the log cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.daemon.front.control import enrolment
from hsmd.daemon.front.control.enrolment import REFUSALS_AT_ONCE, REFUSALS_PER_S, EnrolmentHandlers
from hsmd.errors import AuditFailure
from tests.support.daemon import ROLES

GUESS = f"{'0' * 16}.{'0' * 32}"


class SnapshotCache:
    """Knows no token."""

    async def change_unversioned(self, action: Callable[[Any], Any]) -> bool:
        return False


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ill = False

    def event(self, name: str, client: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def commit(self) -> None:
        if self.ill:
            raise AuditFailure(detail="no space left")


async def no_statement_keys() -> list[str]:
    return []


@pytest.fixture
def audit() -> Log:
    return Log()


@pytest.fixture
def handlers(audit: Log, monkeypatch: pytest.MonkeyPatch) -> EnrolmentHandlers:
    monkeypatch.setattr(enrolment, "TRY_S", 0.0)
    return EnrolmentHandlers(
        cache=SnapshotCache(),  # type: ignore[arg-type]
        audit=audit,  # type: ignore[arg-type]
        pins=lambda role: ((), ()),
        statement_keys=no_statement_keys,
    )


async def admitted(handlers: EnrolmentHandlers) -> bool:
    return await handlers.admit(GUESS, "192.0.2.7", frozenset(ROLES.values()))


async def test_a_wrong_token_is_refused_also_while_the_log_cannot_be_written(
    handlers: EnrolmentHandlers, audit: Log
) -> None:
    audit.ill = True
    assert not await admitted(handlers)


async def test_peers_without_a_token_do_not_fill_the_disk(
    handlers: EnrolmentHandlers, audit: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four tries a second for a minute, the rate at which tokens are checked; tries that are not recorded are counted."""
    now = [0.0]
    monkeypatch.setattr(enrolment, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(240):
        now[0] += 0.25
        assert not await admitted(handlers)
    one_by_one = [name for name, _ in audit.events if name == "enrolment.refused"]
    assert REFUSALS_AT_ONCE <= len(one_by_one) <= REFUSALS_AT_ONCE + 60 * REFUSALS_PER_S + 1
    now[0] += 60
    await admitted(handlers)
    counted = sum(fields["count"] for name, fields in audit.events if name == "log.refusals")
    assert counted + len([name for name, _ in audit.events if name == "enrolment.refused"]) == 241
