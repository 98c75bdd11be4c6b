"""`hsmd vault limits`: change term and uses of a deposited key."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import note
from hsmd.cli.base.times import moment
from hsmd.cli.vault.change_output import show
from hsmd.cli.vault.options import (
    NONE,
    ManagementKeyFile,
    MaxUses,
    ModeOption,
    NotAfter,
    NotBefore,
    Opened,
    PassphraseFd,
    Reason,
    Record,
    VersionOption,
    app,
    check_term,
    checked_mode,
    now,
)
from hsmd.cli.vault.owner import Owner, owner
from hsmd.errors import HsmdError

if TYPE_CHECKING:
    from hsmd.envelopes.vault.records import RecordStatement
    from hsmd.protocol.messages import VaultVersion


@command(
    app,
    "limits",
    example="hsmd vault limits www --max-uses 20 --not-after 2027-12-31\nhsmd vault limits www --not-after none --mode notify",
)
def limits(
    session: Session,
    record: Record,
    version: VersionOption = 0,
    not_before: NotBefore = "",
    not_after: NotAfter = "",
    max_uses: MaxUses = None,
    mode: ModeOption = "",
    reason: Reason = "",
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Sign the limits again as they are, after a restore of the daemon."),
    ] = False,
    restored: Annotated[
        bool,
        typer.Option(
            "--restored",
            help="The daemon's store is from a backup that is older than your last statement: state all limits anew.",
        ),
    ] = False,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Change how long and how often a key may be taken out; what is not given stays.

    `none` in place of a time takes that end of the term away. You sign the new limits. Uses that were counted, which are shown,
    stay counted: to allow five more, add five to the maximum.

    After the daemon was restored from a backup, its records are held until you sign their limits again; --confirm does that
    without a change. If the backup is older than your last statement, use --restored and give all limits: what the restored
    store says about them may be what you have changed since.
    """
    from hsmd.holder.changes import Changes

    at = now()
    wanted = _changes(not_before, not_after, max_uses, mode, at)
    if not wanted and not reason and not confirm:
        raise CommandError(
            "nothing to change",
            "give --max-uses, --not-after, --not-before or --mode, or --confirm",
            Exit.USAGE,
        )
    if restored and not (wanted.keys() >= {"max_uses", "mode", "not_after"}):
        raise CommandError(
            "--restored needs all limits anew",
            "give --max-uses, --mode and --not-after (or none)",
            Exit.USAGE,
        )
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        statement = Changes(mine.prover, mine.seen).limits(
            record, version, wanted, reason, at, restored=restored
        )
        counted = _counted(mine, statement)
    show(session, statement, _used_up(counted), counted=counted)


def _counted(mine: Owner, statement: RecordStatement) -> VaultVersion | None:
    """The uses that are counted; None, with a hint, if they cannot be read: the change was made all the same."""
    from hsmd.holder.changes import version_of

    try:
        return version_of(mine.prover, statement.record, statement.version)
    except (HsmdError, CommandError) as error:
        note(f"hsmd: the uses that are counted are not known: {error.text}")
        return None


def _used_up(counted: VaultVersion | None) -> str:
    """A hint if all uses are gone: the maximum is a total, and not what is added."""
    if counted is None or not counted.max_uses or counted.released < counted.max_uses:
        return ""
    given = "It is not given out any more" if counted.mode == "deny" else "Its maximum is reached"
    return (
        f"{given}: it was taken out {counted.released} times already, and --max-uses is the total. "
        f"For one more use: --max-uses {counted.released + 1}"
    )


def _changes(
    not_before: str, not_after: str, max_uses: int | None, mode: str, at: datetime
) -> dict[str, object]:
    from hsmd.envelopes.vault.fields import format_time
    from hsmd.envelopes.vault.records import Mode

    changes: dict[str, object] = {}
    begin, end = _time("--not-before", not_before, at), _time("--not-after", not_after, at)
    check_term(begin, end)
    if not_before:
        changes["not_before"] = format_time(begin) if begin else ""
    if not_after:
        changes["not_after"] = format_time(end) if end else ""
    if max_uses is not None:
        changes["max_uses"] = max_uses
    if mode:
        changes["mode"] = Mode(checked_mode(mode))
    return changes


def _time(option: str, text: str, at: datetime) -> datetime | None:
    """None if it is not given, or taken away."""
    return None if text in ("", NONE) else moment(option, text, at)
