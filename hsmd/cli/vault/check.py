"""`hsmd vault check`: ask whether a public key is the one that an owner has deposited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit, command_error
from hsmd.cli.base.names import check as check_name
from hsmd.cli.base.output import fields
from hsmd.cli.vault import statement_keys
from hsmd.cli.vault.options import app
from hsmd.cli.vault.owner import Connection
from hsmd.errors import HsmdError

if TYPE_CHECKING:
    from hsmd.holder.checking import Checked

MISMATCH, NO_ANSWER, UNUSABLE = Exit(3), Exit(4), Exit(5)
"""Exit codes of this command only; whatever else fails is 1 or 2 here."""


@command(
    app,
    "check",
    example="hsmd vault check anna client.pem\n"
    "hsmd vault check anna id_ed25519.pub --record laptop --json\n"
    "hsmd vault check anna client.pem && echo usable",
)
def check(
    session: Session,
    owner: Annotated[
        str,
        typer.Argument(
            metavar="OWNER", help="Client name of the owner.", show_default=False, callback=check_name
        ),
    ],
    key: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The public key: PEM or DER, a certificate, a certificate request, or an OpenSSH line; - for standard input.",
            show_default=False,
        ),
    ],
    record: Annotated[
        str, typer.Option("--record", metavar="RECORD", help="Only this record of the owner. Default: all.")
    ] = "",
    statement: Annotated[
        Path | None,
        typer.Option(
            "--statement", metavar="FILE", help="Write the signed answer to this file, as evidence."
        ),
    ] = None,
) -> None:
    """Ask whether a public key is the one that an owner has deposited, and whether it may be relied on.

    The answer is signed by the daemon and verified here: fresh, for you, about this key. Exit codes: 0 match and usable, 3
    mismatch, 4 no answer (the owner has not allowed you to ask, or is not known), 5 match but not usable now: an earlier
    version, expired, used up, suspended, revoked or compromised. 1 and 2 mean that nothing is known: the daemon cannot be
    reached, or the answer is refused.
    """
    from hsmd.holder import public_key_forms

    spki = public_key_forms.spki_of(input_files.content_or_input(key, public_key_forms.MAX_BYTES))
    found = ask(session, owner, spki, record)
    if statement is not None:
        from hsmd.cli.base.files import PUBLIC
        from hsmd.system import atomic_file

        atomic_file.replace(statement, found.statement, PUBLIC)
    session.output.show(document(found), lambda: fields(_shown(found)), hints=_next(found, record))
    if (code := exit_code(found)) is not Exit.OK:
        raise CheckFailed(code)


def ask(session: Session, owner: str, spki: bytes, record: str) -> Checked:
    """The verified answer. Raises CommandError, never with the exit code of a verdict."""
    from hsmd.cli.vault.problems import command_error as refused
    from hsmd.holder import checking
    from hsmd.holder.checking import AnswerRefused

    def asked(keys: object) -> Checked:
        user = session.profile().user
        return checking.check(Connection(session), owner, spki, keys, asker=user, record=record)  # type: ignore[arg-type]

    try:
        keys = statement_keys.accepted(session)
        if keys:
            try:
                return asked(keys)
            except checking.UnknownKey:
                pass  # a new one may have been endorsed since
        return asked(statement_keys.fetched(session))
    except AnswerRefused as error:
        failed = refused(error)
    except CommandError as error:
        failed = error
    except HsmdError as error:
        failed = command_error(error)
    code = failed.code if failed.code in (Exit.FAILED, Exit.USAGE) else Exit.FAILED
    raise CommandError(failed.what, failed.next_step, code, text=failed.text)


def exit_code(found: Checked) -> Exit:
    """The exit code for an answer."""
    from hsmd.envelopes.vault.answers import Verdict

    if found.usable:
        return Exit.OK
    return {Verdict.MISMATCH: MISMATCH, Verdict.NO_ANSWER: NO_ANSWER}.get(found.verdict, UNUSABLE)


def _next(found: Checked, record: str) -> str:
    """What a verdict means and what to do, for a key that may not be relied on; `record`: what was asked about, if only one."""
    from hsmd.envelopes.vault.answers import Verdict

    answer = found.answer
    if answer.usable:
        return ""
    if answer.verdict is Verdict.NO_ANSWER:
        return (
            f"Either {answer.owner} has not allowed you to ask, or there is no such owner.\n"
            f"Check the name; the owner allows you with: hsmd vault allow {answer.asker}"
        )
    if answer.verdict is Verdict.MISMATCH:
        return f"Do not rely on this key: {answer.owner} has not deposited it{f' under {record}' if record else ''}."
    return (
        f"Do not rely on this key now; {answer.owner} sees why, and what replaces it, with: "
        f"hsmd vault show {answer.record}"
    )


def document(found: Checked) -> dict[str, object]:
    """The answer for programs."""
    answer = found.answer
    return {
        "verdict": answer.verdict.value,
        "usable": answer.usable,
        "owner": answer.owner,
        "key": answer.key,
        "record": answer.record,
        "version": answer.version,
        "state": answer.state.value if answer.state else "",
        "reason": answer.reason.value,
        "not_before": answer.not_before,
        "not_after": answer.not_after,
        "uses_left": answer.uses_left,
        "at": answer.at,
        "daemon": found.daemon,
        "statement": found.statement,
    }


def _shown(found: Checked) -> list[tuple[str, str]]:
    answer = found.answer
    return [
        ("verdict", answer.verdict.value),
        ("usable", "yes" if answer.usable else "no"),
        ("record", f"{answer.record} version {answer.version}" if answer.record else ""),
        ("state", answer.state.value if answer.state else ""),
        ("reason", "" if answer.reason == "none" else answer.reason.value),
        ("until", answer.not_after),
        ("uses left", str(answer.uses_left) if answer.uses_left >= 0 else ""),
        ("at", answer.at),
        ("daemon", found.daemon),
    ]
