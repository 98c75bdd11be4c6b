"""`hsmd enroll`: register, as an operator or any other client without an agent, with a one-time token."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.commands import command
from hsmd.cli.base.enrolment import read_token, register
from hsmd.cli.base.files import PRIVATE, exists, make_directory_for_now, write_new
from hsmd.cli.base.invoking_user import invoking_user
from hsmd.cli.base.output import Output, fields

app = typer.Typer(add_completion=False)

TokenFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="File with the token; `-` to paste it or read it from a pipe.",
        show_default=False,
    ),
]


@command(app, "enroll", example="hsmd enroll -\nhsmd enroll token.txt --profile ~/.config/hsmd/fra.toml")
def enroll(
    output: Output,
    file: TokenFile,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", metavar="FILE", help="Profile to write. Default: ~/.config/hsmd/operator.toml."
        ),
    ] = None,
) -> None:
    """Register as the operator, auditor or other client that a token of `hsmd client enroll` was created for.

    Generates a key, registers it with the daemon, and writes a profile with the daemon's host key pinned. Existing files are
    not overwritten.
    """
    path = (profile or profiles.default_path()).absolute()
    identity = path.with_name(f"{path.stem}_ed25519")
    for new in (path, identity):
        if new.exists() or new.is_symlink():
            raise exists(new)
    token = read_token(file)
    with invoking_user().acting(), ExitStack() as undo:
        make_directory_for_now(undo, path.parent)
        answer = register(token, identity, undo)
        pinned = profiles.Profile(
            token.address,
            answer.client,
            Path(identity.name),
            tuple(answer.host_keys),
            operator_keys=tuple(answer.operator_keys),
            statement_keys=tuple(answer.statement_keys),
        )
        write_new(path, profiles.render(pinned), PRIVATE)
        undo.pop_all()
    roles = answer.roles or [answer.role]  # a release with one role per client sends only that
    document = {
        "profile": str(path), "daemon": token.address, "client": answer.client, "role": answer.role, "roles": roles
    }  # fmt: skip
    summary = fields(
        [
            ("profile", str(path)),
            ("daemon", token.address),
            ("client", answer.client),
            ("roles", ", ".join(roles)),
        ]
    )
    output.show(document, lambda: summary)
