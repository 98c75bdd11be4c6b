"""How often daemons are asked for their health: a thousand agents ask the same daemon."""

from __future__ import annotations

import pytest

from hsmd.agent import daemon_health
from hsmd.agent.daemon_health import ASK_EVERY_S, FAULT_EVERY_S, DaemonHealth
from hsmd.health.levels import DEGRADED, FAILING, PARTIAL, WELL
from hsmd.protocol.messages import Finding, Health, HealthRead


class Connection:
    """A daemon that is connected and tells its health."""

    available = True

    def __init__(self, level: str) -> None:
        self.level = level
        self.asked = 0

    async def control(self, request: HealthRead, *, timeout_s: float) -> Health:
        self.asked += 1
        return Health(self.level, [] if self.level == WELL else [Finding("token-away", self.level)])


def health_of(connection: Connection) -> DaemonHealth:
    return DaemonHealth(lambda: [connection], changed=lambda: None)  # type: ignore[list-item]


async def pauses(health: DaemonHealth, monkeypatch: pytest.MonkeyPatch, count: int) -> list[float]:
    """The pauses after so many answers; nothing happens in them."""
    waited: list[float] = []

    class Enough(Exception):
        pass

    async def wait(event: object, seconds: float) -> bool:
        waited.append(seconds)
        if len(waited) == count:
            raise Enough
        return False

    monkeypatch.setattr(daemon_health, "_set_within", wait)
    with pytest.raises(Enough):
        await health.follow()
    return waited


@pytest.mark.parametrize("level", [WELL, DEGRADED, PARTIAL])
async def test_a_state_that_may_last_is_asked_for_rarely(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    waited = await pauses(health_of(Connection(level)), monkeypatch, 20)
    assert all(seconds >= ASK_EVERY_S for seconds in waited[1::2])
    assert max(waited[::2]) <= 2.0, "an error of an operation is followed by a question soon"


async def test_a_daemon_that_goes_on_failing_is_asked_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pauses(health_of(Connection(FAILING)), monkeypatch, 7) == [
        1, 2, 4, 8, FAULT_EVERY_S, FAULT_EVERY_S, FAULT_EVERY_S,
    ]  # fmt: skip


async def test_a_new_connection_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(FAILING)
    health = health_of(connection)
    await pauses(health, monkeypatch, 5)
    monkeypatch.undo()
    health.ask_soon()
    await health._pause()
    assert health._pauses() == (1.0, 0.0)
