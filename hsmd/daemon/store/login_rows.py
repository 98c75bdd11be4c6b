"""Rows about logins to tokens; each function runs inside its caller's transaction."""

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


def stops(connection: Connection) -> list[LoginStop]:
    """The tokens whose logins are stopped, by name."""
    statement = (
        select(token_logins).where(token_logins.c.stopped_at.is_not(None)).order_by(token_logins.c.token)
    )
    return [_stop(row) for row in connection.execute(statement).mappings()]


def look(connection: Connection, token: str, holder: str, now: datetime) -> LoginClaim:
    """What a claim would give, without making it."""
    row = _row(connection, token)
    if row is None:
        return LoginClaim(granted=True)
    if row["stopped_at"] is not None:
        return LoginClaim(granted=False, stop=_stop(row))
    held = row["holder"] not in ("", holder) and row["held_until"] is not None and row["held_until"] > now
    return LoginClaim(granted=not held, cleared=row["cleared"] and not held)


def claim(connection: Connection, token: str, holder: str, now: datetime, hold: timedelta) -> LoginClaim:
    """Take the turn to log in, if nobody has it and logins are not stopped; takes up the operator's leave too."""
    found = look(connection, token, holder, now)
    if found.granted:
        _put(connection, token, holder=holder, held_until=now + hold, cleared=False)
    return found


def release(connection: Connection, token: str, holder: str, *, cleared: bool) -> None:
    """Give the turn back, and with `cleared` the operator's leave, which was not used."""
    row = _row(connection, token)
    if row is not None and row["holder"] == holder:
        _put(connection, token, holder="", held_until=None, cleared=cleared or row["cleared"])


def stop(connection: Connection, record: LoginStop) -> None:
    """No more logins; a stop that is there already keeps its reason."""
    row = _row(connection, record.token)
    if row is None or row["stopped_at"] is None:
        _put(
            connection,
            record.token,
            stopped_at=record.at,
            stopped_by=record.by,
            reason=record.reason,
            cleared=False,
            holder="",
            held_until=None,
        )


def clear(connection: Connection, token: str) -> None:
    """Logins may be tried again, one by one. Raises NotFound if they are not stopped."""
    row = _row(connection, token)
    if row is None or row["stopped_at"] is None:
        raise NotFound(f"name: logins to the token {token!r} are not stopped")
    _put(connection, token, stopped_at=None, stopped_by="", reason="", cleared=True)


def _row(connection: Connection, token: str) -> RowMapping | None:
    return connection.execute(select(token_logins).where(token_logins.c.token == token)).mappings().first()


def _put(connection: Connection, token: str, **values: Any) -> None:
    changed = connection.execute(update(token_logins).where(token_logins.c.token == token).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(token_logins).values(token=token, **{**_BLANK, **values}))


def _stop(row: RowMapping) -> LoginStop:
    return LoginStop(token=row["token"], at=row["stopped_at"], by=row["stopped_by"], reason=row["reason"])
