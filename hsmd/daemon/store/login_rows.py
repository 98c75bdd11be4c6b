"""Rows about logins to tokens: turns to log in, which are leases, and stops; within one transaction.

Daemons of an earlier release know the columns `holder` and `held_until` instead of leases. They change them under the
lock of the row of `state`; so does this module, which keeps the columns and the lease alike.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from hsmd.daemon.store.counter_rows import Counters
from hsmd.daemon.store.lease_rows import Leases
from hsmd.daemon.store.records import Lease, LoginClaim, LoginStop
from hsmd.daemon.store.state_row import StateRow
from hsmd.daemon.store.tables import token_logins
from hsmd.errors import LeaseLost, NotFound

_BLANK: dict[str, Any] = {
    "stopped_at": None, "stopped_by": "", "reason": "", "cleared": False, "holder": "", "held_until": None,
}  # fmt: skip


class Logins:
    """Which daemon may log in to a token, and which tokens accept no login.

    `claim` and `release` do not change the version of the contents: who waits for a turn asks again anyhow. `stop` and
    `clear` belong in a versioned transaction, because all daemons must learn of them.
    """

    def __init__(
        self, connection: Connection, state: StateRow, lease_rows: Leases, counter_rows: Counters
    ) -> None:
        self._connection = connection
        self._state = state
        self._leases = lease_rows
        self._counters = counter_rows

    def stops(self) -> list[LoginStop]:
        """The tokens whose logins are stopped, in order of name."""
        query = select(token_logins).where(token_logins.c.stopped_at.is_not(None))
        rows = self._connection.execute(query.order_by(token_logins.c.token))
        return [_stop(row) for row in rows.mappings()]

    def clearances(self, token: str) -> int:
        """How often operators have cleared a stop of this token; what was seen before the newest one is out of date."""
        return self._counters.value(_clearances(token))

    def preview(self, token: str, holder: str, now: datetime) -> LoginClaim:
        """What `claim` would return, but for the lease, without making the claim."""
        row = self._row(token)
        clearances = self.clearances(token)
        if row is None:
            return LoginClaim(granted=True, clearances=clearances)
        if row["stopped_at"] is not None:
            return LoginClaim(granted=False, stop=_stop(row), clearances=clearances)
        held = row["holder"] not in ("", holder) and row["held_until"] is not None and row["held_until"] > now
        return LoginClaim(granted=not held, cleared=row["cleared"] and not held, clearances=clearances)

    def claim(self, token: str, holder: str, now: datetime, hold: timedelta) -> LoginClaim:
        """Take the turn to log in, for `hold` or until `release`, unless it is taken or logins are stopped.

        A granted claim uses up an operator's clearance.
        """
        self._state.lock()
        found = self.preview(token, holder, now)
        if not found.granted:
            return found
        lease = self._take_lease(token, holder, now, hold)
        if lease is None:
            return LoginClaim(granted=False, clearances=found.clearances)
        self._put(token, holder=holder, held_until=lease.until, cleared=False)
        return LoginClaim(granted=True, cleared=found.cleared, lease=lease, clearances=found.clearances)

    def release(self, token: str, lease: Lease, *, cleared: bool = False) -> None:
        """Give the turn back; `cleared` also restores an operator's clearance that was not used.

        Raises LeaseLost if the turn was ended, or taken since; nothing is restored then.
        """
        self._state.lock()
        self._leases.release(lease)
        row = self._row(token)
        if row is None or row["holder"] != lease.holder:  # a daemon of an earlier release has taken it
            raise LeaseLost
        self._put(token, holder="", held_until=None, cleared=cleared or row["cleared"])

    def stop(self, record: LoginStop, clearances: int) -> bool:
        """Stop logins until `clear`, and end any claim; an earlier stop keeps its reason. Return whether they are stopped.

        They are not if an operator has cleared a stop since the daemon saw this number of `clearances`. The daemon's
        lease does not matter: the refusal is a fact about the token, whoever has the turn now (docs/adr/0010).
        """
        if self.clearances(record.token) > clearances:
            return False
        row = self._row(record.token)
        if row is None or row["stopped_at"] is None:
            self._leases.end(_lease_name(record.token))
            self._put(
                record.token,
                stopped_at=record.at,
                stopped_by=record.by,
                reason=record.reason,
                cleared=False,
                holder="",
                held_until=None,
            )
        return True

    def clear(self, token: str) -> None:
        """Allow logins again, the next one despite the token's warnings. Raises NotFound if none are stopped."""
        row = self._row(token)
        if row is None or row["stopped_at"] is None:
            raise NotFound(
                f"logins to the token {token!r} are not stopped; `hsmd token list` shows the tokens"
            )
        self._counters.step(_clearances(token))
        self._put(token, stopped_at=None, stopped_by="", reason="", cleared=True)

    def _take_lease(self, token: str, holder: str, now: datetime, hold: timedelta) -> Lease | None:
        """The lease of a turn that `preview` found free."""
        name = _lease_name(token)
        held, row = self._leases.find(name), self._row(token)
        if held is not None and (row is None or row["holder"] != held.holder):
            self._leases.end(name)  # a daemon of an earlier release has ended the turn, or taken it since
        return self._leases.acquire(name, holder, now, hold)

    def _row(self, token: str) -> RowMapping | None:
        query = select(token_logins).where(token_logins.c.token == token)
        return self._connection.execute(query).mappings().first()

    def _put(self, token: str, **values: Any) -> None:
        change = update(token_logins).where(token_logins.c.token == token).values(**values)
        if self._connection.execute(change).rowcount == 0:
            row = {"token": token, **_BLANK, **values}
            self._connection.execute(insert(token_logins).values(row))


def _stop(row: RowMapping) -> LoginStop:
    return LoginStop(token=row["token"], at=row["stopped_at"], by=row["stopped_by"], reason=row["reason"])


def _lease_name(token: str) -> str:
    return f"token-login/{token}"


def _clearances(token: str) -> str:
    return f"token-clearances/{token}"
