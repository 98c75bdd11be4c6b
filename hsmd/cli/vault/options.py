"""What the commands of `hsmd vault` share: the group, arguments and options."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import group
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import check, not_empty
from hsmd.cli.base.times import moment

if TYPE_CHECKING:
    from hsmd.holder.deposits import Terms

app = group(
    """A vault that cannot open what it keeps.

    An owner seals keys to a management key, which the daemon never has, and deposits them. The daemon knows how long and how
    often each may be taken out, counts, and tells others whether a public key is the owner's.

    An owner begins with keygen and register; an operator compares the fingerprint and runs confirm."""
)


def now() -> datetime:
    """The time, for statements."""
    return datetime.now(UTC)


def reason_checked(reason: str) -> str:
    """Return `reason` if a statement takes it. Raises BadParameter, a usage error."""
    from hsmd.envelopes.vault.fields import MAX_REASON_CHARACTERS

    if len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
        raise typer.BadParameter(f"not one printable line of at most {MAX_REASON_CHARACTERS} characters")
    return reason


MANAGEMENT = "Management key"
TERM = "Term and uses"

Record = Annotated[
    str, typer.Argument(metavar="RECORD", help="Name of the record.", show_default=False, callback=check)
]
VersionOption = Annotated[
    int, typer.Option("--version", metavar="N", min=0, help="Version of the record. Default: the newest.")
]
SomeVersion = Annotated[
    int, typer.Option("--version", metavar="N", min=1, help="Version of the record.", show_default=False)
]
ManagementKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--management-key",
        metavar="FILE",
        help="File of your management key. Default: management-key beside the profile.",
        rich_help_panel=MANAGEMENT,
    ),
]
PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        metavar="N",
        min=0,
        help="Read the passphrase of the management key from this file descriptor. Default: ask at the terminal.",
        rich_help_panel=MANAGEMENT,
        show_default=False,
    ),
]
OldManagementKey = Annotated[
    Path | None,
    typer.Option(
        "--old-management-key",
        metavar="FILE",
        help="While a management key is replaced: the file of the old one, for keys that are not wrapped anew yet.",
        rich_help_panel=MANAGEMENT,
        show_default=False,
    ),
]
OldPassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--old-passphrase-fd",
        metavar="N",
        min=0,
        help="Read the passphrase of the old management key from here.",
        rich_help_panel=MANAGEMENT,
        show_default=False,
    ),
]
Opened = Annotated[
    bool,
    typer.Option(
        "--opened",
        help="Prove with the wrapping key, by opening a challenge, instead of a signature.",
        rich_help_panel=MANAGEMENT,
    ),
]
NotBefore = Annotated[
    str,
    typer.Option(
        "--not-before",
        metavar="TIME",
        help="Not given out before this: 8h (from now), 2026-12-24, or 2026-12-24T18:30Z.",
        rich_help_panel=TERM,
        callback=not_empty,
    ),
]
NotAfter = Annotated[
    str,
    typer.Option(
        "--not-after",
        metavar="TIME",
        help="Not given out from this on: 90d (from now), 2026-12-24, or 2026-12-24T18:30Z.",
        rich_help_panel=TERM,
        callback=not_empty,
    ),
]
MaxUses = Annotated[
    int | None,
    typer.Option(
        "--max-uses",
        metavar="N",
        min=0,
        max=1_000_000_000,
        help="How often it may be taken out in all; 0 for no limit.",
        rich_help_panel=TERM,
    ),
]
ModeOption = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="Beyond the uses: notify (announce it) or deny (refuse, too). The term is always enforced.",
        rich_help_panel=TERM,
    ),
]
Reason = Annotated[
    str,
    typer.Option(
        "--reason",
        metavar="TEXT",
        help="The reason, in one line; it is kept with the statement.",
        callback=reason_checked,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token", metavar="FILE", help="File that names a token of yours, in its section `token`."),
]

NONE = "none"
_MODES = ("notify", "deny")


def terms(not_before: str, not_after: str, max_uses: int | None, mode: str, at: datetime) -> Terms:
    """The terms of a deposit, which must not have ended. Raises CommandError."""
    from hsmd.envelopes.vault.records import Mode
    from hsmd.holder.deposits import Terms

    begin = moment("--not-before", not_before, at) if not_before else None
    end = moment("--not-after", not_after, at) if not_after else None
    if end is not None and end <= at:
        raise CommandError(
            f"--not-after: {end:%Y-%m-%dT%H:%MZ} has passed already", "give a time to come", Exit.USAGE
        )
    check_term(begin, end)
    return Terms(begin, end, max_uses or 0, Mode(checked_mode(mode or "notify")))


def check_term(begin: datetime | None, end: datetime | None) -> None:
    """Raises CommandError for a term that ends before it begins, in whole seconds as statements have them."""
    if begin is not None and end is not None and end.replace(microsecond=0) <= begin.replace(microsecond=0):
        raise CommandError(
            "--not-after: the term ends before it begins",
            "give a time after that of --not-before",
            Exit.USAGE,
        )


def checked_mode(mode: str) -> str:
    """The name of a mode. Raises CommandError."""
    if mode not in _MODES:
        raise CommandError(f"--mode: {mode!r} is neither notify nor deny", "choose one of them", Exit.USAGE)
    return mode
