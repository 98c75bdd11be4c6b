"""`hsmd token`: how tokens are, and logins after a refused PIN."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields, when
from hsmd.protocol.messages import Done, TokenClear, TokenInfo, TokenInfoList, TokenList

app = group(
    """How the tokens are, and whether daemons may log in to them.

    A token that refuses a PIN is left alone by all daemons that share the store, because a few wrong tries lock it."""
)


@command(app, "list", example="hsmd token list\nhsmd token list --json | jq '.tokens[].stop_reason'")
def list_tokens(session: Session) -> None:
    """Show each token: its state, its circuit breaker, and whether logins are stopped."""
    found = session.ask(TokenList(), TokenInfoList)
    session.output.show(found, lambda: tuple(fields(_facts(token)) for token in found.tokens))


@command(app, "clear", example="hsmd token clear main")
def clear(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The token's name in hsmd.toml.", show_default=False)
    ],
) -> None:
    """Let daemons log in again after a PIN was refused. Mend the PIN first.

    One login is tried, by one daemon; the others follow if the token takes it. If it does not, everything stops again.
    """
    done = session.ask(TokenClear(name=name), Done)
    session.output.show(
        {"token": name, "changed": done.changed},
        lambda: f"Daemons may log in to {name} again. See: hsmd token list",
    )


def _facts(token: TokenInfo) -> list[tuple[str, str]]:
    facts = [("token", token.name), ("state", token.state), ("breaker", token.breaker)]
    if token.reason:
        facts.append(("reason", token.reason))
    if token.stopped_at is not None:
        facts += [
            ("logins", f"STOPPED since {when(token.stopped_at)} by {token.stopped_by}: {token.stop_reason}"),
            ("to do", f"mend the PIN, then hsmd token clear {token.name}"),
        ]
    else:
        facts.append(("logins", "allowed"))
    if token.missing:
        facts.append(("missing", f"in the store, not in the token: {', '.join(token.missing)}"))
    if token.unknown:
        facts.append(("unknown", f"in the token, not in the store: {', '.join(token.unknown)}"))
    return facts
