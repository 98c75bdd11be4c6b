"""`hsmd vault run`: run a program with an SSH agent that holds a key of the vault."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import note
from hsmd.cli.vault.get import uses
from hsmd.cli.vault.options import (
    ManagementKeyFile,
    OldManagementKey,
    OldPassphraseFd,
    Opened,
    PassphraseFd,
    Record,
    VersionOption,
    app,
)
from hsmd.cli.vault.owner import owner


@command(
    app,
    "run",
    example="hsmd vault run laptop -- ssh server.example.org\nhsmd vault run deploy -- rsync -a site/ web1:/srv/site",
)
def run(
    session: Session,
    record: Record,
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="PROGRAM", help="The program and its arguments, behind `--`.", show_default=False
        ),
    ],
    version: VersionOption = 0,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    old_key: OldManagementKey = None,
    old_passphrase_fd: OldPassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Take a key out for one program, which uses it through an SSH agent (SSH_AUTH_SOCK).

    One use is counted. The key is in the memory of this command only and in no file; the agent lists this key, signs with it, and
    ends with the program, whose exit code is that of this command. Programs that it starts cannot gain privileges (sudo).
    """
    if shutil.which(program[0]) is None:
        raise CommandError(
            f"there is no program {program[0]}", "correct its name; no use was counted", Exit.USAGE
        )
    from hsmd.envelopes.header import Kind
    from hsmd.holder import acquisitions, brought_keys, foreseen
    from hsmd.holder.changes import version_of
    from hsmd.holder.ssh_agent import OneKeyAgent

    former = old_key, old_passphrase_fd
    with owner(session, management_key, passphrase_fd, opened=opened, former=former) as mine:
        shown = version_of(mine.prover, record, version)
        if shown.kind == Kind.SECRET_KEY:
            raise CommandError(
                "a symmetric key is of no use to SSH",
                "take it out: hsmd vault get; no use was counted",
                Exit.USAGE,
            )
        foreseen.check_for_ssh(shown)
        foreseen.check_opens(shown, mine.key, mine.former)
        acquired = acquisitions.get(mine.prover, mine.seen, record, version, former=mine.former)
        pkcs8 = acquired.open(mine.opener(acquired))
        agent = OneKeyAgent(brought_keys.from_pkcs8(pkcs8).private, f"{record} (vault)")
    note(f"{acquired.statement.record} version {acquired.statement.version}, uses: {uses(acquired)}")
    with agent:
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent.path)}
        environment.pop("SSH_AGENT_PID", None)
        code = subprocess.run(program, env=environment, check=False).returncode
    raise typer.Exit(code if code >= 0 else 128 - code)
