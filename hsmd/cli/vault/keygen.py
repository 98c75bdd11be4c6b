"""`hsmd vault keygen`: make a management key, in a file or in a token, and a second copy of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import check_directory, exists
from hsmd.cli.base.names import check
from hsmd.cli.base.output import Output, fields
from hsmd.cli.vault import passphrases
from hsmd.cli.vault.options import MANAGEMENT, app, now
from hsmd.cli.vault.owner import Tokens, default_key_file, management_key, protect
from hsmd.cli.vault.problems import explained
from hsmd.errors import HsmdError

if TYPE_CHECKING:
    from hsmd.envelopes.vault.management_keys import WrappingSuite
    from hsmd.holder.management_files import KeyFile
    from hsmd.holder.management_keys import ManagementKey, Pair, Place, SoftwareManagementKey

SUITES = ("rsa", "p256", "x25519", "hybrid", "symmetric")


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a copy of a management key goes: its file, and the token that holds it, if any."""

    path: Path
    token: Path | None
    passphrase_fd: int | None
    option: str


def _named(owner: str) -> str:
    named = owner or profiles.load_if_there(None).user
    if not named:
        raise typer.BadParameter("there is no profile that names you; give your client name")
    return check(named)


@command(
    app,
    "keygen",
    example="hsmd vault keygen --backup /media/stick/management-key\n"
    "hsmd vault keygen --owner anna --suite rsa --token owner.toml --backup backup-key --backup-token backup.toml\n"
    "hsmd vault keygen new-key --owner anna --replaces ~/.config/hsmd/management-key",
)
def keygen(
    output: Output,
    owner: Annotated[
        str,
        typer.Option(
            "--owner",
            metavar="NAME",
            help="Your client name at the daemon. Default: that of the profile.",
            show_default=False,
            callback=_named,
        ),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="File to write. Default: management-key beside the profile."),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            metavar="SUITE",
            help="The wrapping key: rsa (3072 bits), p256, x25519, hybrid (ML-KEM-768 with X25519) or symmetric. In a token: "
            "rsa or p256. Default: x25519, in a token rsa.",
            rich_help_panel=MANAGEMENT,
        ),
    ] = "",
    token: Annotated[
        Path | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="Make it in the token that this file names; FILE then says where it is.",
            rich_help_panel=MANAGEMENT,
        ),
    ] = None,
    wrapping_key: Annotated[
        Path | None,
        typer.Option(
            "--wrapping-key",
            metavar="PEM",
            help="Bring the wrapping key (RSA from 3072 bits, P-256 or X25519) instead of making one.",
            rich_help_panel=MANAGEMENT,
        ),
    ] = None,
    backup: Annotated[
        Path | None,
        typer.Option(
            "--backup", metavar="FILE", help="Also write a second copy, with a passphrase of its own."
        ),
    ] = None,
    backup_token: Annotated[
        Path | None,
        typer.Option(
            "--backup-token",
            metavar="FILE",
            help="Put the second copy into the token that this file names, instead of under a passphrase.",
        ),
    ] = None,
    replaces: Annotated[
        Path | None,
        typer.Option(
            "--replaces",
            metavar="FILE",
            help="The management key that the new one replaces, which signs its succession; for `hsmd vault rekey`.",
        ),
    ] = None,
    number: Annotated[
        int,
        typer.Option(
            "--number",
            metavar="N",
            min=1,
            help="After the loss of a management key: the number behind the last one in `hsmd vault keys`.",
        ),
    ] = 1,
    passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of the new file from here.",
            show_default=False,
        ),
    ] = None,
    backup_passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--backup-passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of the second copy from here.",
            show_default=False,
        ),
    ] = None,
    replaces_passphrase_fd: Annotated[
        int | None,
        typer.Option(
            "--replaces-passphrase-fd",
            metavar="N",
            min=0,
            help="Read the passphrase of the replaced key from here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a management key: a wrapping key, to which your keys are sealed, and a signing key, which signs for you.

    Whoever has it can take your keys out of the vault, and no one else can, the daemon included. Make a second copy
    with --backup and keep it in another place: a lost disk is then not a lost vault. In a token without --backup the keys are
    made there and never leave it; with --backup they are made in memory and stored twice.

    Next: `hsmd vault register`, and tell an operator the fingerprint.
    """
    main = Copy(file or default_key_file(), token, passphrase_fd, "--passphrase-fd")
    second = Copy(backup, backup_token, backup_passphrase_fd, "--backup-passphrase-fd") if backup else None
    if backup_token and not backup:
        raise CommandError(
            "--backup-token needs --backup", "name the file that says where the copy is", Exit.USAGE
        )
    _check_free(main, second)
    protect()
    with ExitStack() as undo, explained():
        tokens = Tokens(undo)
        before = None
        if replaces is not None:
            before, _ = undo.enter_context(
                management_key(replaces, replaces_passphrase_fd, tokens, user=owner)
            )
        maker = _Maker(tokens, _place(owner, number, before), before)
        if token is not None and second is None and wrapping_key is None:
            key, written = maker.in_token(main, _suite(suite or "rsa"))
        else:
            pair = _pair(suite, wrapping_key, in_token=bool(token or backup_token))
            key, written = maker.copied(pair, [main, *([second] if second else [])])
    document = {
        "owner": owner,
        "number": key.statement.number,
        "suite": key.statement.suite.value,
        "fingerprint": key.statement.fingerprint,
        "files": [str(path) for path in written],
    }
    next_step = "hsmd vault rekey" if replaces else "hsmd vault register"
    hints = f"Next: {next_step}, and tell an operator the fingerprint."
    if replaces:
        hints = f"Next: hsmd vault rekey {main.path}"
    if second is None:
        hints += "\nThere is no second copy: without this key, what it protects is lost (--backup)."
        if token is None:
            hints += f"\nCopy {main.path} to another disk before you deposit keys."
    output.show(
        document,
        lambda: fields(
            [
                ("owner", owner),
                ("number", str(key.statement.number)),
                ("suite", key.statement.suite.value),
                ("fingerprint", key.statement.fingerprint),
                ("written", ", ".join(map(str, written))),
            ]
        ),
        hints=hints,
    )


class _Maker:
    """Makes a management key and writes its copies; what was written is removed if a later step fails."""

    def __init__(self, tokens: Tokens, place: Place, replaces: ManagementKey | None) -> None:
        self._tokens = tokens
        self._place = place
        self._replaces = replaces

    def in_token(self, copy: Copy, suite: WrappingSuite) -> tuple[ManagementKey, list[Path]]:
        """One that is made in a token."""
        from hsmd.holder import management_files, management_token

        assert copy.token is not None
        opened = self._tokens.open(copy.token)
        settings = str(copy.token.absolute())
        key, where = management_token.generate(opened, settings, suite, self._place, now(), self._replaces)
        try:
            _write(copy.path, management_files.in_token(key.signed, key.suite, where))
        except BaseException:
            management_token.forget(opened, where)
            raise
        return key, [copy.path]

    def copied(self, pair: Pair, copies: list[Copy]) -> tuple[ManagementKey, list[Path]]:
        """One that is made in memory, in one or two places."""
        from hsmd.holder.management_keys import state

        envelope_suite = None
        for copy in copies:
            if copy.token is not None:
                from hsmd.holder.management_token import suite_of

                envelope_suite = suite_of(self._tokens.open(copy.token), pair.suite)
        key = state(pair, self._place, now(), replaces=self._replaces, suite=envelope_suite)
        with ExitStack() as undo:
            for copy in copies:
                file = self._stored(undo, key, copy)
                _write(copy.path, file)
                undo.callback(copy.path.unlink, missing_ok=True)
            undo.pop_all()
        return key, [copy.path for copy in copies]

    def _stored(self, undo: ExitStack, key: SoftwareManagementKey, copy: Copy) -> KeyFile:
        from hsmd.holder import management_files
        from hsmd.holder.file_encryption import MIN_PASSPHRASE

        if copy.token is None:
            passphrase = passphrases.fresh(
                str(copy.path), copy.passphrase_fd, option=copy.option, least=MIN_PASSPHRASE
            )
            return management_files.encrypted(key, passphrase)
        from hsmd.holder import management_token

        opened = self._tokens.open(copy.token)
        where = management_token.store(opened, str(copy.token.absolute()), key)
        undo.callback(management_token.forget, opened, where)
        return management_files.in_token(key.signed, key.suite, where)


def _place(owner: str, number: int, before: ManagementKey | None) -> Place:
    from hsmd.holder.management_keys import Place

    return Place(owner, number) if before is None else Place.behind(before.statement)


def _suite(name: str) -> WrappingSuite:
    from hsmd.envelopes.vault.management_keys import WrappingSuite

    if name not in SUITES:
        raise CommandError(
            f"--suite: {name!r} is none of {', '.join(SUITES)}", "choose one of them", Exit.USAGE
        )
    return WrappingSuite(name)


def _pair(suite: str, brought: Path | None, *, in_token: bool) -> Pair:
    """New private halves, or the wrapping key of a file with a new signing key."""
    from hsmd.holder.management_keys import Pair, generate_pair

    made = generate_pair(_suite(suite or ("rsa" if in_token else "x25519")), for_tokens=in_token)
    if brought is None:
        return made
    from hsmd.cli.vault.key_input import from_file

    private = from_file(brought, None).private
    pair = Pair(made.signing, private)  # type: ignore[arg-type]  # `suite` refuses other kinds
    if suite and pair.suite != suite:
        raise CommandError(
            f"--suite: {brought} holds a key for {pair.suite}", "leave --suite out", Exit.USAGE
        )
    return pair


def _check_free(main: Copy, second: Copy | None) -> None:
    for path in [main.path, *([second.path] if second else [])]:
        if path.exists():
            raise _taken(path)
    if second is not None:
        check_directory(second.path)  # made here, it would be on this disk while the other one is not mounted
    if second is not None and second.path.absolute() == main.path.absolute():
        raise CommandError("--backup names the same file", "choose a file on another disk", Exit.USAGE)
    if second is not None and main.passphrase_fd is not None and main.passphrase_fd == second.passphrase_fd:
        raise CommandError(
            "both passphrases come from one file descriptor", "use a second one for the backup", Exit.USAGE
        )


def _write(path: Path, file: KeyFile) -> None:
    from hsmd.holder import management_files

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        management_files.write_new(path, file)
    except FileExistsError:
        raise _taken(path) from None


def _taken(path: Path) -> CommandError:
    """The error for a file that exists: if it holds a management key, deposits may be sealed to it."""
    from hsmd.holder import management_files

    try:
        management_files.read(path)
    except (HsmdError, OSError):
        return exists(path)
    return CommandError(
        f"{path} holds a management key and is not overwritten",
        f"go on with it (hsmd vault register), or replace it: hsmd vault keygen NEW --replaces {path}",
    )
