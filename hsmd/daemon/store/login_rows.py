"""Rows about logins to tokens: turns to log in, and stops; within one transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from hsmd.daemon.store.records import LoginClaim, LoginStop
from hsmd.daemon.store.tables import token_logins
from hsmd.errors import NotFound

_BLANK: dict[str, Any] = {
    "stopped_at": None, "stopped_by": "", "reason": "", "cleared": False, "holder": "", "held_until": None,
}  # fmt: skip


class Logins:
    """Which daemon may log in to a token, and which tokens accept no login."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stops(self) -> list[LoginStop]:
        """The tokens whose logins are stopped, in order of name."""
        query = select(token_logins).where(token_logins.c.stopped_at.is_not(None))
        rows = self._connection.execute(query.order_by(token_logins.c.token))
        return [_stop(row) for row in rows.mappings()]

    def preview(self, token: str, holder: str, now: datetime) -> LoginClaim:
        """What `claim` would return, without making the claim."""
        row = self._row(token)
        if row is None:
            return LoginClaim(granted=True)
        if row["stopped_at"] is not None:
            return LoginClaim(granted=False, stop=_stop(row))
        held = row["holder"] not in ("", holder) and row["held_until"] is not None and row["held_until"] > now
        return LoginClaim(granted=not held, cleared=row["cleared"] and not held)

    def claim(self, token: str, holder: str, now: datetime, hold: timedelta) -> LoginClaim:
        """Take the turn to log in, for `hold` or until `release`, unless it is taken or logins are stopped.

        A granted claim uses up an operator's clearance.
        """
        found = self.preview(token, holder, now)
        if found.granted:
            self._put(token, holder=holder, held_until=now + hold, cleared=False)
        return found

    def release(self, token: str, holder: str, *, cleared: bool = False) -> None:
        """Give the turn back; `cleared` also restores an operator's clearance that was not used."""
        row = self._row(token)
        if row is not None and row["holder"] == holder:
            self._put(token, holder="", held_until=None, cleared=cleared or row["cleared"])

    def stop(self, record: LoginStop) -> None:
        """Stop logins until `clear`, and end any claim; an earlier stop keeps its reason."""
        row = self._row(record.token)
        if row is None or row["stopped_at"] is None:
            self._put(
                record.token,
                stopped_at=record.at,
                stopped_by=record.by,
                reason=record.reason,
                cleared=False,
                holder="",
                held_until=None,
            )

    def clear(self, token: str) -> None:
        """Allow logins again, the next one despite the token's warnings. Raises NotFound if none are stopped."""
        row = self._row(token)
        if row is None or row["stopped_at"] is None:
            raise NotFound(
                f"logins to the token {token!r} are not stopped; `hsmd token list` shows the tokens"
            )
        self._put(token, stopped_at=None, stopped_by="", reason="", cleared=True)

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
