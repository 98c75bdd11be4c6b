"""`hsmd token`: the state of tokens, and logins after a refused PIN."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.output import fields, when
from hsmd.protocol.messages import Done, TokenClear, TokenInfo, TokenInfoList, TokenList, TokenStop

app = group(
    """State of the tokens, and whether daemons log in to them.

    After a token has refused a PIN, all daemons that share the store stop logging in to it, because a few wrong attempts lock a
    token."""
)

LOGIN_S = 30.0
"""How long `clear` waits for a login: a daemon may have to wait for its turn, and a token is slow."""
LOOK_S = 0.3
MOST_SHOWN = 20
"""Keys that a line names."""


@command(app, "list", example="hsmd token list\nhsmd token list --json | jq '.tokens[].stop_reason'")
def list_tokens(session: Session) -> None:
    """List tokens with their state, circuit breaker, and whether logins are stopped."""
    found = session.ask(TokenList(), TokenInfoList)
    session.output.show(found, lambda: tuple(fields(_facts(token)) for token in found.tokens))


@command(app, "clear", example="hsmd token clear main")
def clear(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="TOKEN", help="Name of the token in hsmd.toml.", show_default=False)
    ],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result of the login.")] = True,
) -> None:
    """Let daemons log in again, after a PIN was refused or changed. Correct the PIN first.

    One daemon attempts one login, and the command waits for it. If the token accepts it, the other daemons follow; otherwise
    logins stop again, and the exit code is 1. A PIN that was refused is not tried again while its file is unchanged.
    """
    before = _token(session, name) if wait else None
    done = session.ask(TokenClear(name=name), Done)
    with session.output.working("waiting for the login"):
        found = _after_login(session, before) if before is not None else None
    if found is not None and before is not None and found.stopped_at not in (None, before.stopped_at):
        raise CommandError(
            f"logins to {name} are stopped again: {found.stop_reason}",
            f"then run again: hsmd token clear {name}",
        )
    accepted = found is not None and _is_logged_in(found)
    result = ": it accepts the PIN." if accepted else ", and none has been tried yet."
    session.output.show(
        {"token": name, "changed": done.changed, "accepted": accepted},
        lambda: f"Daemons may log in to {name} again{result}",
        hints="" if accepted else "See: hsmd token list",
    )


@command(app, "stop", example='hsmd token stop main --reason "the PIN is being changed"')
def stop(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="TOKEN", help="Name of the token in hsmd.toml.", show_default=False)
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, for the log and other operators.")
    ] = "the PIN is being changed",
) -> None:
    """Have no daemon log in to a token until `hsmd token clear`, so that its PIN can be changed.

    Workers that are logged in go on, so handshakes do too. No try is lost on the old PIN, whatever happens meanwhile.
    """
    done = session.ask(TokenStop(name=name, reason=reason), Done)
    result = "No daemon logs in to" if done.changed else "Logins were stopped before to"
    session.output.show(
        {"token": name, "changed": done.changed},
        lambda: f"{result} {name}.",
        hints=f"Change the PIN of the token, then the file with the PIN on each key host, then: hsmd token clear {name}",
    )


def _token(session: Session, name: str) -> TokenInfo | None:
    tokens = session.ask(TokenList(), TokenInfoList).tokens
    return next((token for token in tokens if token.name == name), None)


def _after_login(session: Session, before: TokenInfo) -> TokenInfo | None:
    """The token once its login has succeeded or was refused, or after `LOGIN_S`; None if it is not there any more.

    The daemon may show the stop of `before` for a moment.
    """
    ends = time.monotonic() + LOGIN_S
    while True:
        found = _token(session, before.name)
        if found is None or _is_logged_in(found) or time.monotonic() >= ends:
            return found
        if found.stopped_at not in (None, before.stopped_at):
            return found
        time.sleep(LOOK_S)


def _is_logged_in(token: TokenInfo) -> bool:
    """Whether the token has accepted the PIN; daemons of earlier releases do not tell `logins`."""
    return token.stopped_at is None and token.state == "ready" and token.logins in ("allowed", "")


def _facts(token: TokenInfo) -> list[tuple[str, str]]:
    facts = [("token", token.name), ("state", token.state), ("breaker", token.breaker)]
    if token.serial:
        facts.insert(1, ("serial", token.serial))
    if token.write_protected:
        facts.append(
            ("writing", "WRITE-PROTECTED: its keys are used, but none can be made, adopted or destroyed")
        )
    if token.reason:
        facts.append(("reason", token.reason))
    if token.stopped_at is not None:
        facts += [
            ("logins", f"STOPPED since {when(token.stopped_at)} by {token.stopped_by}: {token.stop_reason}"),
            ("next step", f"correct the PIN, then: hsmd token clear {token.name}"),
        ]
    else:
        facts.append(("logins", token.logins or "allowed"))
    if token.wrapping:
        facts.append(("wrapped keys", ", ".join(token.wrapping)))
    if token.missing:
        named = _named(token.missing, token.missing_count)
        facts.append(("missing", f"in the store but not served by the token: {named}"))
    if token.unknown:
        named = _named(token.unknown, token.unknown_count)
        facts.append(("unknown", f"in the token but not in the store: {named}"))
    facts += [("not served", f"{each.key or each.digest}: {each.problem}") for each in token.not_served]
    if token.missing or token.unknown or token.not_served:
        shown = f"hsmd key candidates --token {token.name}"
        facts.append(("details", f"what the token holds of these keys, and the next step for each: {shown}"))
    return facts


def _named(keys: list[str], count: int) -> str:
    """The first of these keys, and how many there are (0 from daemons of earlier releases, which send all)."""
    more = max(count, len(keys)) - MOST_SHOWN
    shown = ", ".join(keys[:MOST_SHOWN])
    return f"{shown} and {more:,} more; --json names up to 1,000" if more > 0 else shown
