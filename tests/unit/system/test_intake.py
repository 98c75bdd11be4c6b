"""Intake on a loop that the test turns: work in a turn, the order of those that wait, and pauses by the clock."""

from __future__ import annotations

import pytest

from hsmd.system.accounts import Tariff
from hsmd.system.intake import (
    FRAMES_A_TURN,
    FRAMES_AT_A_TIME,
    SHORTEST_PAUSE_S,
    Intake,
    Intakes,
)
from tests.support.fake_loop import FakeLoop

TARIFF = Tariff(
    share=200_000, burst=50_000, byte=0, frame=1, refusal=70, control_request=400, key_operation=0
)


class Backlog:
    """Frames of one connection that are handled as the intake allows; `handled` is shared, to show the order."""

    def __init__(
        self, name: str, intake: Intake, frames: int, handled: list[str], refused: bool = False
    ) -> None:
        self.name, self.intake, self.frames, self.handled = name, intake, frames, handled
        self.refused = refused

    def handle(self) -> None:
        while self.frames:
            now = min(self.intake.frames_now(), self.frames)
            if not now:
                self.intake.wait(self.handle)
                return
            self.frames -= now
            self.handled += [self.name] * now
            self.intake.charge(frames=now, refusals=now if self.refused else 0)


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def intakes(loop: FakeLoop) -> Intakes:
    return Intakes(TARIFF, lambda: loop.now, loop)


def test_frames_of_a_client_are_handled_in_turns(loop: FakeLoop, intakes: Intakes) -> None:
    handled: list[str] = []
    Backlog("a", intakes.join("web"), 2 * FRAMES_A_TURN + 5, handled).handle()
    counts = [len(handled)]
    for _ in range(3):
        loop.turn()
        counts.append(len(handled))
    assert counts == [FRAMES_A_TURN, 2 * FRAMES_A_TURN, 2 * FRAMES_A_TURN + 5, 2 * FRAMES_A_TURN + 5]


def test_connections_of_one_client_share_its_turn_and_each_gets_its_own(
    loop: FakeLoop, intakes: Intakes
) -> None:
    handled: list[str] = []
    for name in "abc":
        Backlog(name, intakes.join("web"), 2 * FRAMES_A_TURN, handled).handle()
    assert set(handled) == {"a"}
    order = []
    for _ in range(5):
        handled.clear()
        loop.turn()
        assert len(handled) == FRAMES_A_TURN
        order.append("".join(sorted(set(handled))))
    assert order == ["a", "b", "c", "b", "c"] or order == ["b", "c", "a", "b", "c"]


def test_another_client_has_its_own_turn(loop: FakeLoop, intakes: Intakes) -> None:
    handled: list[str] = []
    Backlog("flood", intakes.join("web"), 10 * FRAMES_A_TURN, handled).handle()
    Backlog("other", intakes.join("mail"), 5, handled).handle()
    assert handled.count("other") == 5


def test_what_comes_later_waits_behind_what_waits(loop: FakeLoop, intakes: Intakes) -> None:
    handled: list[str] = []
    intake = intakes.join("web")
    intake.spend(TARIFF.burst + 1)
    Backlog("first", intake, 1, handled).handle()
    loop.now = SHORTEST_PAUSE_S / 2
    Backlog("second", intake, 1, handled).handle()
    assert not handled, "the account has recovered, and the first one waits for the end of the pause"
    loop.now = SHORTEST_PAUSE_S * 2
    loop.turn()
    assert handled == ["first", "second"]


def test_costly_frames_end_a_turn_early(loop: FakeLoop, intakes: Intakes) -> None:
    intake = intakes.join("web")
    intake.spend(TARIFF.burst * 0.6)
    loop.turn()
    handled: list[str] = []
    Backlog("refused", intake, 1_000, handled, refused=True).handle()
    assert len(handled) == FRAMES_AT_A_TIME
    loop.turn()
    assert len(handled) == 2 * FRAMES_AT_A_TIME


def test_a_client_whose_account_is_overdrawn_is_handled_when_it_has_recovered(
    loop: FakeLoop, intakes: Intakes
) -> None:
    intake = intakes.join("web")
    intake.spend(TARIFF.burst + TARIFF.share / 10)
    handled: list[str] = []
    Backlog("a", intake, 1, handled).handle()
    loop.now = 0.099
    loop.turn()
    assert not handled
    assert loop.next_timer == pytest.approx(0.1)
    loop.now = 0.101
    loop.turn()
    assert handled == ["a"]
    assert intake.paused_s == pytest.approx(0.1)


def test_a_pause_is_worth_its_own_cost(loop: FakeLoop, intakes: Intakes) -> None:
    intake = intakes.join("web")
    intake.spend(TARIFF.burst + 1)
    Backlog("a", intake, 1, []).handle()
    assert loop.next_timer == pytest.approx(SHORTEST_PAUSE_S)


def test_a_fault_of_one_connection_does_not_stop_the_others(loop: FakeLoop, intakes: Intakes) -> None:
    intake = intakes.join("web")
    intake.spend(TARIFF.turn)
    handled: list[str] = []

    def fault() -> None:
        raise ZeroDivisionError

    intake.wait(fault)
    Backlog("b", intake, 1, handled).handle()
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert handled == ["b"]


def test_a_client_that_comes_again_finds_its_account_as_it_left_it(loop: FakeLoop, intakes: Intakes) -> None:
    intake = intakes.join("web")
    intake.spend(TARIFF.burst * 2)
    intakes.leave("web")
    assert intakes.join("web") is intake


def test_clients_that_left_are_forgotten_once_their_accounts_are_full(
    loop: FakeLoop, intakes: Intakes
) -> None:
    for number in range(100):
        intakes.join(number).spend(1_000)
        intakes.leave(number)
        loop.now += 0.01
    assert len(intakes) < 5
