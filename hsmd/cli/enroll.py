"""`hsmd enroll`, and what `hsmd agent init --enroll` shares with it: using a one-time token."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import profile as profiles, ssh_keys
from hsmd.cli.base.commands import command
from hsmd.cli.base.failures import Exit, Stop
from hsmd.cli.base.files import PRIVATE, exists, make_directory, person, write_new
from hsmd.cli.base.output import Output, fields
from hsmd.errors import BadRequest, HsmdError, ProtocolError, Refused

if TYPE_CHECKING:
    from hsmd.protocol.enrolment import EnrolmentAnswer, EnrolmentToken

app = typer.Typer(add_completion=False)

MAX_LINE = 1_000

TokenFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="File with the token; - to paste it, or to pipe it in.", show_default=False
    ),
]


@command(app, "enroll", example="hsmd enroll -\nhsmd enroll token.txt --profile ~/.config/hsmd/fra.toml")
def enroll(
    output: Output,
    file: TokenFile,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="Profile to write. Default: operator.toml."),
    ] = None,
) -> None:
    """Become the operator or auditor that a token of `hsmd client enroll` was made for.

    Makes a key of your own, has it registered, and writes a profile with the daemon's host key pinned. Nothing that exists is
    overwritten.
    """
    path = (profile or profiles.default_path()).absolute()
    identity = path.with_name(f"{path.stem}_ed25519")
    for made in (path, identity):
        if made.exists() or made.is_symlink():
            raise exists(made)
    token = read_token(file)
    with ExitStack() as undo, person().acting():
        make_directory(path.parent)
        answer = register(token, identity, undo)
        pinned = profiles.Profile(token.address, answer.client, Path(identity.name), tuple(answer.host_keys))
        write_new(path, profiles.render(pinned), PRIVATE)
        undo.pop_all()
    document = {"profile": str(path), "daemon": token.address, "client": answer.client, "role": answer.role}
    told = fields(
        [("profile", str(path)), ("daemon", token.address), ("client", answer.client), ("role", answer.role)]
    )
    output.show(document, lambda: told)


def read_token(source: str) -> EnrolmentToken:
    """The token in a file, or from standard input for `-`. Raises Stop; never shows the token."""
    from hsmd.protocol.enrolment import PREFIX, EnrolmentToken

    if source.startswith(PREFIX.partition(":")[0] + ":"):
        raise Stop(
            "other users of this host can see what is on the command line",
            "give - and paste the token, or name a file; have a new token made now",
            Exit.USAGE,
        )
    try:
        return EnrolmentToken.parse(_read(source))
    except BadRequest as error:
        raise Stop(
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
        raise Stop(error.text, "do not go on: ask the operator whether the host key has changed") from None
    except Refused as error:
        raise Stop(error.text, "ask the operator for a new token") from None
    except HsmdError as error:
        raise Stop(
            error.text, "check that the daemon runs and can be reached from here", Exit.UNREACHABLE
        ) from None
