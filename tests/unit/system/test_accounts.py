"""Accounts: what is charged, and when a client that is overdrawn may go on."""

from __future__ import annotations

import pytest

from hsmd.system.accounts import Account, Tariff

TARIFF = Tariff(
    share=200_000,
    burst=50_000,
    byte=0.5,
    frame=2,
    refusal=70,
    control_request=400,
    key_operation=1,
)


@pytest.mark.parametrize(
    ("what", "cost"),
    [
        ({"byte_count": 100}, 50.0),
        ({"frames": 100}, 200.0),
        ({"refusals": 3}, 210.0),
        ({"control_requests": 2}, 800.0),
        ({"key_operations": 7}, 7.0),
        ({"byte_count": 2, "frames": 1, "refusals": 1, "control_requests": 1, "key_operations": 1}, 474.0),
    ],
)
def test_everything_has_its_price(what: dict[str, int], cost: float) -> None:
    account = Account(TARIFF, 0.0)
    assert account.charge(0.0, **what) == cost
    account.spend(TARIFF.burst - cost, 0.0)
    assert account.recovery_s(0.0) == 0.0
    account.spend(200.0, 0.0)
    assert account.recovery_s(0.0) == pytest.approx(0.001)


def test_an_overdrawn_account_recovers_at_the_rate_of_its_share() -> None:
    account = Account(TARIFF, 10.0)
    account.spend(60_000, 10.0)
    assert account.recovery_s(10.0) == pytest.approx(0.05)
    assert account.recovery_s(10.02) == pytest.approx(0.03)
    assert account.recovery_s(10.06) == 0.0


def test_a_quiet_client_saves_no_more_than_the_burst() -> None:
    account = Account(TARIFF, 0.0)
    account.spend(0.0, 1_000.0)
    account.spend(TARIFF.burst + 200.0, 1_000.0)
    assert account.recovery_s(1_000.0) == pytest.approx(0.001)


def test_an_account_is_ample_while_more_than_half_of_the_burst_is_left() -> None:
    account = Account(TARIFF, 0.0)
    account.spend(24_000, 0.0)
    assert account.ample
    account.spend(2_000, 0.0)
    assert not account.ample
    assert not account.is_full(0.0)
    assert account.is_full(0.13)
