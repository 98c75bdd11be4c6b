"""Challenges: once, for a minute, and a bounded number of them."""

from __future__ import annotations

import pytest

from hsmd.daemon.front.vault.challenges import (
    LIFE_S,
    MAX_OF_CLIENT,
    MAX_OF_SESSION,
    MAX_OPEN,
    Challenges,
    Sealed,
    Use,
    new_nonce,
    new_secret,
)
from hsmd.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def challenges(clock: Clock) -> Challenges:
    return Challenges(clock)


def use(client: str = "owen", session: int = 1) -> Use:
    return Use(client, session.to_bytes(32, "big"), "vault.get", "www", 1)


def test_a_challenge_is_answered_once(challenges: Challenges) -> None:
    nonce = new_nonce()
    issued = challenges.issue(nonce, use(), Sealed(b"recipient", b"secret"))
    assert challenges.take(b"x" * 32) is None
    assert challenges.take(nonce) == issued
    assert challenges.take(nonce) is None
    assert len(challenges) == 0


@pytest.mark.parametrize(("after", "open_"), [(0.0, True), (LIFE_S - 0.01, True), (LIFE_S, False)])
def test_its_time_is_a_minute(challenges: Challenges, clock: Clock, after: float, open_: bool) -> None:
    nonce = new_nonce()
    challenges.issue(nonce, use())
    clock.now += after
    assert (challenges.take(nonce) is not None) is open_


def test_a_session_has_a_limit_and_no_other_one_notices(challenges: Challenges, clock: Clock) -> None:
    first = new_nonce()
    challenges.issue(first, use())
    clock.now += 10
    for _ in range(MAX_OF_SESSION - 1):
        challenges.issue(new_nonce(), use())
    with pytest.raises(Overloaded) as caught:
        challenges.check_room(use())
    assert caught.value.retry_after_ms == (LIFE_S - 10) * 1000
    challenges.issue(new_nonce(), use(session=2))
    assert challenges.take(first)
    challenges.issue(new_nonce(), use())
    with pytest.raises(Overloaded):
        challenges.issue(new_nonce(), use())
    clock.now += LIFE_S
    challenges.issue(new_nonce(), use())
    assert len(challenges) == 1, "those whose time is over are forgotten"


def test_a_client_and_all_together_have_limits(challenges: Challenges) -> None:
    for number in range(MAX_OF_CLIENT):
        challenges.issue(new_nonce(), use(session=number // MAX_OF_SESSION))
    with pytest.raises(Overloaded):
        challenges.issue(new_nonce(), use(session=99))
    for number in range(MAX_OPEN - MAX_OF_CLIENT):
        challenges.issue(new_nonce(), use(f"client-{number}", 1_000 + number))
    with pytest.raises(Overloaded):
        challenges.issue(new_nonce(), use("another", 9_999))
    assert len(challenges) == MAX_OPEN


def test_secrets_are_random_and_not_shown() -> None:
    assert len({new_nonce() for _ in range(100)} | {new_secret() for _ in range(100)}) == 200
    assert "secret" not in repr(Sealed(b"recipient", b"the secret", b"key", b"secret 2")).replace(
        "Sealed", ""
    )
    assert "\\x00" not in repr(use())
