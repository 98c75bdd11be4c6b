"""`hsmd statement verify`: check a statement without the daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import input_files, profile as profiles
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.output import Output, fields, note
from hsmd.cli.base.statement_pins import pins_of
from hsmd.cli.statement.options import app
from hsmd.errors import BadRequest, ConfigurationError, HsmdError, ProtocolError
from hsmd.purposes.statement import KINDS
from hsmd.system.input_files import open_file

if TYPE_CHECKING:
    from hsmd.transparency.note import Verifier

_MAX_BYTES = 262_144
"""More than a signed note has."""


@command(
    app,
    "verify",
    example="hsmd statement verify receipt --kind deposit-receipt\n"
    "hsmd statement verify - --key statement-keys < receipt",
)
def verify(
    output: Output,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The signed note; - for standard input.", show_default=False),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help=f"The kind it must have, one of {', '.join(sorted(KINDS))}.",
            show_default=False,
        ),
    ] = "",
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="FILE|KEY",
            help="Verifier key, or a file with one on each line; may be repeated. Default: the keys that the profile accepts.",
        ),
    ] = [],  # noqa: B006  read only
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", metavar="FILE", help="Operator profile. Default: ~/.config/hsmd/operator.toml."
        ),
    ] = None,
) -> None:
    """Verify a statement: its signature, its key, the daemon and the kind that it names. Needs no connection.

    Exit codes: 10 it was altered, 11 it is of another kind than --kind, 12 it is signed by a key that is not among the accepted
    ones, 13 it is not a statement.
    """
    from hsmd.transparency import statement as statements

    if kind:
        try:
            statements.check_kind(kind)
        except BadRequest as problem:
            raise CommandError(f"--{problem.text}", "choose one of them", Exit.USAGE) from None
    keys = _given(key) if key else _accepted(profile)
    text = _read(file)
    try:
        found = statements.verify(text, keys, kind)
    except (
        statements.AlteredStatement,
        statements.OtherStatement,
        statements.UnknownStatementKey,
        statements.MalformedStatement,
    ) as problem:
        _refuse(output, problem, given=bool(key))
    document = {
        "valid": True,
        "kind": found.kind,
        "daemon": found.daemon,
        "lines": list(found.lines),
    }
    output.show(
        document,
        lambda: (
            fields([("statement", "valid"), ("kind", found.kind), ("daemon", found.daemon)]),
            "\n".join(["", *found.lines]),
        ),
    )


def _refuse(output: Output, problem: HsmdError, *, given: bool) -> None:
    """Print why the statement is refused, and end with the exit code for it."""
    from hsmd.transparency import statement as statements

    name, code, advice = {
        statements.AlteredStatement: ("altered", Exit.ALTERED, "do not rely on it; get the original"),
        statements.OtherStatement: (
            "other-kind",
            Exit.OTHER_KIND,
            "it is genuine, but does not state what you asked for",
        ),
        statements.UnknownStatementKey: (
            "unknown-key",
            Exit.UNKNOWN_KEY,
            "give the key of the daemon that you expect with --key"
            if given
            else "`hsmd statement keys` fetches keys that operators have endorsed since; or give a key with --key",
        ),
        statements.MalformedStatement: (
            "malformed",
            Exit.MALFORMED,
            "give the whole file, with its signature line",
        ),
    }[type(problem)]
    document = {"valid": False, "problem": name, "reason": problem.text}
    output.show(
        document, lambda: fields([("statement", "refused"), ("problem", name), ("reason", problem.text)])
    )
    if not output.as_json:
        note(f"hsmd: {advice}")
    raise CheckFailed(code)


def _read(file: Path) -> str:
    if str(file) == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES)
    else:
        with open(open_file(file), "rb") as source:
            data = source.read(_MAX_BYTES)
    return data.decode("utf-8", "surrogateescape")


def _given(options: list[str]) -> list[Verifier]:
    """The keys that --key names. Raises CommandError."""
    from hsmd.transparency.note import Verifier

    keys: list[Verifier] = []
    for text in options:
        lines = [text] if text.count("+") >= 2 and not Path(text).exists() else _lines(Path(text))
        try:
            keys += [Verifier.from_vkey(line) for line in lines]
        except ProtocolError as problem:
            raise CommandError(
                f"--key: {problem.text}",
                "`hsmd statement keys --verifier-keys` prints keys in that form",
                Exit.USAGE,
            ) from None
    return keys


def _lines(path: Path) -> list[str]:
    text = input_files.text(path, _MAX_BYTES, "name a file with verifier keys")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise CommandError(
            f"--key: {path} is empty", "give a file with a verifier key on each line", Exit.USAGE
        )
    return lines


def _accepted(profile: Path | None) -> list[Verifier]:
    """The keys that the profile accepts. Raises CommandError if there are none."""
    path = profile or profiles.default_path()
    try:
        keys = pins_of(profiles.load_if_there(profile), path).accepted()
    except ConfigurationError as error:
        raise CommandError("; ".join(error.faults), "", Exit.USAGE) from None
    if not keys:
        raise CommandError(
            f"no statement key is known: none is pinned in {path}, and none was fetched",
            "run `hsmd statement keys` once, or give the key with --key",
            Exit.USAGE,
        )
    return keys
