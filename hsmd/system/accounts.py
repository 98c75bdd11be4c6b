"""Accounts: what the requests of one client of a server may cost in processor time. No I/O; the caller passes the time.

A daemon keeps one account for each client, an agent one for each local user, and all connections of the client share it. An
account earns a share of the processor's time and pays for everything that is handled for its client. A client whose account
is overdrawn is not read until the account has recovered.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000.0
"""Microseconds, the unit of all prices."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What an account earns, and what handling costs, in microseconds of the processor's time."""

    share: float
    """Earned in a second."""
    burst: float
    """Most that is saved while a client is quiet."""
    byte: float = 0.0
    frame: float = 0.0
    """A frame that touches no key, with its answer if it has one at once."""
    refusal: float = 0.0
    """A key operation that was answered with an error at once."""
    control_request: float = 0.0
    key_operation: float = 0.0
    """A key operation that was accepted. Its rate and its place in the queue are limited elsewhere."""
    turn: float = 1_000.0
    """Once a client has cost this much in a turn of the event loop, the rest is handled in the next ones."""
    packet: float = 0.0
    """A packet, or a read, that brings no key operation that is accepted."""


class Account:
    """What one client may still cost."""

    __slots__ = ("_balance", "_filled_at", "_tariff")

    def __init__(self, tariff: Tariff, now: float) -> None:
        self._tariff = tariff
        self._balance = tariff.burst
        self._filled_at = now

    def charge(
        self,
        now: float,
        *,
        byte_count: int = 0,
        frames: int = 0,
        refusals: int = 0,
        control_requests: int = 0,
        key_operations: int = 0,
    ) -> float:
        """Charge one batch at the prices of the tariff, and return its cost."""
        tariff = self._tariff
        cost = (
            byte_count * tariff.byte
            + frames * tariff.frame
            + refusals * tariff.refusal
            + control_requests * tariff.control_request
            + key_operations * tariff.key_operation
        )
        self.spend(cost, now)
        return cost

    def spend(self, cost: float, now: float) -> None:
        """Charge what has no price of its own."""
        tariff = self._tariff
        earned = self._balance + (now - self._filled_at) * tariff.share
        self._balance = (earned if earned < tariff.burst else tariff.burst) - cost
        self._filled_at = now

    def recovery_s(self, now: float) -> float:
        """Seconds until the account is no longer overdrawn; 0.0 if it is not."""
        missing = -(self._balance + (now - self._filled_at) * self._tariff.share)
        return missing / self._tariff.share if missing > 0 else 0.0

    @property
    def turn(self) -> float:
        """What the client may cost in a turn of the event loop."""
        return self._tariff.turn

    @property
    def packet(self) -> float:
        """The price of a packet."""
        return self._tariff.packet

    def is_full(self, now: float) -> bool:
        """Whether nothing has to be remembered of this account: a new one would be the same."""
        return self._balance + (now - self._filled_at) * self._tariff.share >= self._tariff.burst

    @property
    def ample(self) -> bool:
        """Whether more than half of the burst was left after the last charge: this client is far from its limit."""
        return self._balance * 2 > self._tariff.burst
