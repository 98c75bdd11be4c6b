"""Enrolling with a one-time token: reading the token, and registering a new key with it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hsmd.cli.base import ssh_keys
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import BadRequest, HsmdError, ProtocolError, Refused

if TYPE_CHECKING:
    from hsmd.protocol.enrolment import EnrolmentAnswer, EnrolmentToken

MAX_LINE = 1_000
"""Characters of a token's line that are read at most."""


def read_token(source: str) -> EnrolmentToken:
    """The token in a file, or from standard input for `-`. Raises CommandError; never shows the token."""
    from hsmd.protocol.enrolment import PREFIX, EnrolmentToken

    if source.startswith(PREFIX.partition(":")[0] + ":"):
        raise CommandError(
            "other users of this host can see what is on the command line",
            "give - and paste the token, or name a file; have a new token made now",
            Exit.USAGE,
        )
    try:
        return EnrolmentToken.parse(_read(source))
    except BadRequest as error:
        raise CommandError(
            error.text, "ask the operator for a new token if the line cannot be copied", Exit.USAGE
        ) from None


def _read(source: str) -> str:
    if source != "-":
        with Path(source).open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_LINE)
    if sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True))
    return sys.stdin.readline(MAX_LINE)


def register(token: EnrolmentToken, identity: Path, undo: ExitStack) -> EnrolmentAnswer:
    """Makes the key pair `identity` and has it registered; `undo` removes it again if a later step fails.

    When the answer of the daemon got lost the key may be registered all the same: it is of no use to anybody without
    its file, and a new token takes the place of the old.
    """
    from hsmd.client.enrolment import enrol

    key = ssh_keys.make_for_now(undo, identity, "hsmd, enrolled")
    try:
        return asyncio.run(enrol(token, key.line))
    except ProtocolError as error:
        raise CommandError(
            error.text, "do not go on: ask the operator whether the host key has changed"
        ) from None
    except Refused as error:
        raise CommandError(error.text, "ask the operator for a new token") from None
    except HsmdError as error:
        raise CommandError(
            error.text, "check that the daemon runs and can be reached from here", Exit.UNREACHABLE
        ) from None
