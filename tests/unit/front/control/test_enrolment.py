"""Enrolment by peers without a valid token: few records, and an answer whatever state the log is in."""

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
    """No token is known here."""

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


@pytest.fixture
def audit() -> Log:
    return Log()


@pytest.fixture
def handlers(audit: Log, monkeypatch: pytest.MonkeyPatch) -> EnrolmentHandlers:
    monkeypatch.setattr(enrolment, "TRY_S", 0.0)
    return EnrolmentHandlers(cache=SnapshotCache(), audit=audit, pins=lambda role: ((), ()))  # type: ignore[arg-type]


async def tried(handlers: EnrolmentHandlers) -> bool:
    return await handlers.admit(GUESS, "192.0.2.7", frozenset(ROLES.values()))


async def test_no_is_the_answer_also_while_the_log_cannot_be_written(
    handlers: EnrolmentHandlers, audit: Log
) -> None:
    audit.ill = True
    assert not await tried(handlers)


async def test_strangers_do_not_fill_the_disk(
    handlers: EnrolmentHandlers, audit: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four a second for a minute, which is as often as tokens are checked; what is not recorded is counted."""
    now = [0.0]
    monkeypatch.setattr(enrolment, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(240):
        now[0] += 0.25
        assert not await tried(handlers)
    one_by_one = [name for name, _ in audit.events if name == "enrolment.refused"]
    assert REFUSALS_AT_ONCE <= len(one_by_one) <= REFUSALS_AT_ONCE + 60 * REFUSALS_PER_S + 1
    now[0] += 60
    await tried(handlers)
    counted = sum(fields["count"] for name, fields in audit.events if name == "log.refusals")
    assert counted + len([name for name, _ in audit.events if name == "enrolment.refused"]) == 241
