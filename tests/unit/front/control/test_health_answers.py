"""Answers about the daemon's health: judged once a second however many agents ask, and without reasons for most roles."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.status import JUDGED_FOR_S, StatusHandlers
from hsmd.protocol.messages import Finding, Health, HealthRead
from hsmd.protocol.roles import Role

TOLD = Finding("token-away", "failing", "softhsm")
KNOWN = Finding("token-away", "failing", "softhsm", "the token is away", "start it")
UNUSED = set(signature(StatusHandlers).parameters) - {"clock"}


@dataclass
class State:
    """What is used of a daemon's state."""

    level: str
    findings: list[Finding]


class Daemon(StatusHandlers):
    """A daemon whose state is what a test says."""

    def __init__(self) -> None:
        self.now, self.judged, self.findings = 100.0, 0, [KNOWN]
        unused: Any = dict.fromkeys(UNUSED)
        super().__init__(clock=lambda: self.now, **unused)

    def state(self) -> Any:
        self.judged += 1
        return State("failing" if self.findings else "well", self.findings)

    async def asked_by(self, role: Role) -> Health:
        identity = Identity("web-1", frozenset({role}), KeyCredential("F"))
        return await self.health(identity, HealthRead(), 0.0)


async def test_a_thousand_that_ask_within_a_second_are_answered_from_one_judgement() -> None:
    daemon = Daemon()
    for _ in range(1_000):
        daemon.now += JUDGED_FOR_S / 2_000
        assert (await daemon.asked_by(Role.FRONT_END)).level == "failing"
    assert daemon.judged == 1


async def test_a_judgement_is_never_older_than_a_second() -> None:
    daemon = Daemon()
    assert (await daemon.asked_by(Role.FRONT_END)).level == "failing"
    daemon.findings = []
    daemon.now += JUDGED_FOR_S
    assert await daemon.asked_by(Role.FRONT_END) == Health("well", [])


@pytest.mark.parametrize(
    ("role", "found"), [(Role.FRONT_END, TOLD), (Role.OPERATOR, KNOWN), (Role.AUDITOR, KNOWN)]
)
async def test_reasons_are_for_operators_and_auditors_also_when_others_asked_before(
    role: Role, found: Finding
) -> None:
    daemon = Daemon()
    await daemon.asked_by(Role.FRONT_END)
    assert (await daemon.asked_by(role)).findings == [found]
    assert (await daemon.asked_by(Role.FRONT_END)).findings == [TOLD]
