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
from hsmd.cli.base.input_files import text
from hsmd.errors import BadRequest, HsmdError, ProtocolError, Refused

if TYPE_CHECKING:
    from hsmd.protocol.enrolment import EnrolmentAnswer, EnrolmentToken

MAX_LINE = 1_000
"""Maximum number of characters of a token line."""
MAX_FILE = 65_536


def read_token(source: str) -> EnrolmentToken:
    """Read a token from a file, or from standard input for `-`. Raises CommandError, never with the token in it."""
    from hsmd.protocol.enrolment import PREFIX, EnrolmentToken

    if source.startswith(PREFIX.partition(":")[0] + ":"):
        raise CommandError(
            "a token on the command line is visible to other users of this host",
            "request a new token; give `-` and paste it, or name a file",
            Exit.USAGE,
        )
    try:
        return EnrolmentToken.parse(_read(source))
    except BadRequest as error:
        raise CommandError(
            error.text.partition("; ")[0],
            "copy the whole line, or ask the operator for a new token",
            Exit.USAGE,
        ) from None


def _read(source: str) -> str:
    if source != "-":
        lines = text(Path(source), MAX_FILE, "name the file with the token, or give `-` and paste it").split(
            "\n"
        )
        if len([line for line in lines if line.strip()]) > 1:
            raise CommandError(
                f"{source} has more than one line, and a token is one",
                "keep the line of the token only",
                Exit.USAGE,
            )
        return next((line for line in lines if line.strip()), "")
    if sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True))
    return sys.stdin.readline(MAX_LINE)


def register(token: EnrolmentToken, identity: Path, undo: ExitStack) -> EnrolmentAnswer:
    """Generate the key pair `identity` and register it; `undo` removes the files if a later step fails.

    If the daemon's answer is lost, the key may be registered although its file is removed. It is then unusable, and a new
    token replaces it.
    """
    return register_key(token, ssh_keys.make_for_now(undo, identity, "hsmd, enrolled").line)


def register_key(token: EnrolmentToken, line: str) -> EnrolmentAnswer:
    """Register a public key (an OpenSSH line). Raises CommandError."""
    from hsmd.client.enrolment import enrol

    try:
        return asyncio.run(enrol(token, line))
    except ProtocolError as error:
        raise CommandError(
            error.text, "do not continue: ask the operator whether the host key has changed"
        ) from None
    except Refused as error:
        raise CommandError(error.text, "ask the operator for a new token") from None
    except HsmdError as error:
        raise CommandError(
            error.text, "check that the daemon is running and reachable from this host", Exit.UNREACHABLE
        ) from None
