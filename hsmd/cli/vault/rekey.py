"""`hsmd vault rekey`: replace the management key; every deposit is wrapped anew on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed, Exit
from hsmd.cli.base.output import fields, note, table
from hsmd.cli.base.paging import management_keys_of
from hsmd.cli.vault.options import ManagementKeyFile, PassphraseFd, app, now
from hsmd.cli.vault.owner import KEY_NAME, Connection, Tokens, management_key, seen_of
from hsmd.cli.vault.problems import explained

if TYPE_CHECKING:
    from hsmd.holder.management_keys import ManagementKey
    from hsmd.protocol.messages import ManagementKeyInfo


@command(
    app,
    "rekey",
    example="hsmd vault keygen new-key --owner anna --replaces ~/.config/hsmd/management-key --backup /media/stick/new-key\n"
    "hsmd vault rekey new-key",
)
def rekey(
    session: Session,
    new: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The new management key, made with `hsmd vault keygen --replaces`.",
            show_default=False,
        ),
    ],
    old: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    new_passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--new-passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of FILE from here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Replace your management key: open every deposit with the old one and seal it to the new one, here.

    No operator is needed: the old key signs for the new one. If it is interrupted, run it again; until it has finished keep both
    keys. No use is counted. When it has finished the old key opens nothing in the vault; put the new file in its place.
    """
    from hsmd.holder.proving import Patient
    from hsmd.holder.replacement import Replacement

    path, user = old or session.directory / KEY_NAME, session.profile().user
    with ExitStack() as undo, explained():
        tokens = Tokens(undo)
        before, _ = undo.enter_context(management_key(path, passphrase_fd, tokens, user=user))
        after, _ = undo.enter_context(management_key(new, new_passphrase_fd, tokens, user=user))
        replacement = Replacement(Patient(Connection(session)), before, after, seen_of(session))
        with session.output.working("wrapping deposits anew") as tell:
            done = replacement.run(now, _Progress(tell, management_keys_of(session), before))
    document = {"wrapped": done.wrapped, "failed": done.failed, "finished": done.finished}
    rows = list(done.failed.items())
    session.output.show(
        document,
        lambda: (
            fields([("wrapped anew", str(done.wrapped)), ("finished", "yes" if done.finished else "no")]),
            *([table(("VERSION", "PROBLEM"), rows)] if rows else []),
        ),
    )
    if not done.finished:
        note(
            "hsmd: some deposits could not be wrapped anew - deposit these keys again or destroy them, then run this again; keep "
            "both management keys"
        )
        raise CheckFailed(Exit.PROBLEMS)
    if not session.output.as_json:
        note(f"Next: put the new key in the place of the old one: mv {new} {path}")


class _Progress:
    """Shows how many of the deposits under a management key are wrapped anew."""

    def __init__(
        self, tell: Callable[[str], None], listed: Iterable[ManagementKeyInfo], old: ManagementKey
    ) -> None:
        self._tell = tell
        self._all = sum(each.deposits for each in listed if each.fingerprint == old.statement.fingerprint)
        self._done = 0

    def __call__(self, place: str) -> None:
        self._done += 1
        self._tell(f"{self._done} of {max(self._all, self._done)}")
