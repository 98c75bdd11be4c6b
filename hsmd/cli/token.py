"""`hsmd token`: the state of tokens, and logins after a refused PIN."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields, when
from hsmd.protocol.messages import Done, TokenClear, TokenInfo, TokenInfoList, TokenList

app = group(
    """State of the tokens, and whether daemons log in to them.

    After a token has refused a PIN, all daemons that share the store stop logging in to it, because a few wrong attempts lock a
    token."""
)

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
) -> None:
    """Let daemons log in again after a PIN was refused. Correct the PIN first.

    One daemon attempts one login. If the token accepts it, the other daemons follow; otherwise logins stop again.
    """
    done = session.ask(TokenClear(name=name), Done)
    session.output.show(
        {"token": name, "changed": done.changed},
        lambda: f"Daemons may log in to {name} again.",
        hints="See: hsmd token list",
    )


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
        facts.append(("logins", "allowed"))
    if token.wrapping:
        facts.append(("wrapped keys", ", ".join(token.wrapping)))
    if token.missing:
        named = _named(token.missing, token.missing_count)
        facts.append(("missing", f"in the store but not in the token: {named}"))
    if token.unknown:
        named = _named(token.unknown, token.unknown_count)
        facts.append(("unknown", f"in the token but not in the store: {named}"))
    facts += [("not served", f"{each.key or each.digest}: {each.problem}") for each in token.not_served]
    return facts


def _named(keys: list[str], count: int) -> str:
    """The first of these keys, and how many there are (0 from daemons of earlier releases, which send all)."""
    more = max(count, len(keys)) - MOST_SHOWN
    shown = ", ".join(keys[:MOST_SHOWN])
    return f"{shown} and {more:,} more; --json names up to 1,000" if more > 0 else shown
