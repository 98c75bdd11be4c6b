"""`hsmd key candidates`: list what the token holds of keys that are not served, and what hsmd makes of each."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import note, table
from hsmd.cli.base.paging import candidates_of
from hsmd.cli.key.options import Token, app
from hsmd.protocol.messages import KeyCandidate


@command(
    app,
    "candidates",
    example="hsmd key candidates\nhsmd key candidates --all\n"
    "hsmd key candidates --json | jq -r '.keys[] | select(.finding == \"adoptable\").next_step'",
)
def candidates(
    session: Session,
    token: Token = "",
    everything: Annotated[
        bool, typer.Option("--all", help="List the keys that are served too.", show_default=False)
    ] = False,
) -> None:
    """List private keys in the token that are not served, with the reason and the next step for each.

    hsmd uses no key that it did not create until you adopt it. Keys that share a CKA_ID are told apart by a signature over
    random data, which never leaves the daemon. Keys that the store does not list, and keys that the token has lost, are listed
    too: all that `hsmd token list` names.
    """
    found = candidates_of(session, token, served=everything)
    rows = [
        (key.cka_id, key.cka_label, key.key_type or "?", key.finding, key.why or ", ".join(key.unsafe))
        for key in found.keys
    ]
    session.output.show(found, lambda: table(("CKA_ID", "CKA_LABEL", "TYPE", "FINDING", "WHY"), rows))
    for line in _next_steps(found.keys):
        note(line)


def _next_steps(keys: list[KeyCandidate]) -> list[str]:
    """Each next step once, with the name of the key that it is for if there are several."""
    steps: dict[str, list[str]] = {}
    for key in keys:
        if key.next_step:
            steps.setdefault(key.next_step, []).append(
                key.cka_label or key.cka_id or "the key without a name"
            )
    return [
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}: {step}" for step, names in steps.items()
    ]
