"""`hsmd restore`: restore an archive of `hsmd backup` on a host that has no daemon yet."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base import archive_report, recount_report, sqlite_store
from hsmd.cli.base.commands import command
from hsmd.cli.base.daemon_users import Users
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import PRIVATE, SHARED_DIRECTORY, exists, make_directory_for_now, write_new
from hsmd.cli.base.output import Output, fields
from hsmd.errors import BadRequest, StoreFailure
from hsmd.system.log_files import LIVE_NAME, SEGMENTS

if TYPE_CHECKING:
    from hsmd.daemon.backup.archive import Archive
    from hsmd.daemon.backup.recount import Raised, Recount
    from hsmd.daemon.config.settings import Config
    from hsmd.daemon.store import Store

app = typer.Typer(add_completion=False)


@command(
    app,
    "restore",
    example="hsmd restore /root/hsmd-2026-03-01.tar --config /etc/hsmd/hsmd.toml\n"
    "hsmd restore /root/hsmd-2026-03-01.tar --log /root/audit-of-west --log /root/audit-of-north",
)
def restore(
    output: Output,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Archive of `hsmd backup`.", show_default=False)
    ],
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Path of hsmd.toml. An existing file is kept, and its paths are used.",
        ),
    ] = Path("hsmd.toml"),
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            metavar="PATH",
            help="Audit log (file or directory), or a copy of it, of another daemon that shared the store, or of this one if it "
            "is not in the directory in hsmd.toml; may be repeated.",
        ),
    ] = None,
) -> None:
    """Restore a backup on a host that has no daemon yet.

    The archive is verified first, and existing files are not overwritten. The store is restored to the database in hsmd.toml,
    SQLite or PostgreSQL, no matter which it came from. The token is not part of the backup and must be available.

    Keys in the vault, and limited grants, were perhaps used after the backup. The audit log in the directory in hsmd.toml, and
    each --log, is read before the store is restored, and the counts are raised to the highest numbers in them. Give the logs of
    all daemons that shared the store; verify those of other hosts first (hsmd audit verify --log). Owners and operators still
    have to state limits again.
    """
    from hsmd.daemon.backup.archive import Archive

    archive = Archive(file)
    config_path = config.absolute()
    with ExitStack() as undo:
        loaded = _configuration(archive, config_path, undo)
        users = Users.from_settings(loaded.users.front, loaded.users.workers)
        _host_key(archive, loaded, users, undo)
        count = _audit(archive, loaded, users, undo)
        with output.working("reading audit logs"):
            recount = _recount(archive, loaded, log or [], audit_files=count)
        held, held_keys, raised = _store(archive, loaded, users, undo, recount)
        undo.pop_all()
    steps = _steps(loaded, count, held, held_keys, recount)
    described = {
        **archive_report.document(file, archive.manifest),
        "config": str(config_path),
        "audit_files": count,
        **recount_report.document(recount, raised),
        "next": steps,
    }
    lines = "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
    output.show(
        described,
        lambda: fields(
            [*archive_report.rows(config_path, archive.manifest), *recount_report.rows(recount, raised)]
        ),
        hints=f"\nNext:\n{lines}\n",
    )


def _configuration(archive: Archive, path: Path, undo: ExitStack) -> Config:
    from hsmd.daemon.backup.archive import CONFIGURATION
    from hsmd.daemon.config.reader import load, parse

    if path.exists():
        return load(path)
    text = archive.read(CONFIGURATION).decode("utf-8")
    loaded = parse(text, path)
    make_directory_for_now(undo, path.parent, SHARED_DIRECTORY)
    write_new(path, text, PRIVATE)
    undo.callback(path.unlink, missing_ok=True)
    Users.from_settings(loaded.users.front, loaded.users.workers).let_front_read(path)
    return loaded


def _host_key(archive: Archive, config: Config, users: Users, undo: ExitStack) -> None:
    from hsmd.daemon.backup.archive import HOST_KEY

    if HOST_KEY not in archive.names():
        return
    path = config.listen.host_key
    make_directory_for_now(undo, path.parent, SHARED_DIRECTORY)
    write_new(path, archive.read(HOST_KEY), PRIVATE)
    undo.callback(path.unlink, missing_ok=True)
    users.give_to_front(path)


def _audit(archive: Archive, config: Config, users: Users, undo: ExitStack) -> int:
    directory = config.audit.directory
    if not any(name.startswith("audit/") for name in archive.names()):
        return 0
    if directory.exists() and any(directory.iterdir()):
        raise exists(directory)
    undo.callback(shutil.rmtree, directory, ignore_errors=True)
    count = archive.extract_audit(directory)
    directory.chmod(0o700)
    for path in (directory, *directory.rglob("*")):
        users.give_to_front(path)
    return count


def _recount(archive: Archive, config: Config, others: list[Path], *, audit_files: int) -> Recount:
    """Read the audit logs, each once. Raises BadRequest for one that cannot be used."""
    from hsmd.daemon.backup.archive import STORE
    from hsmd.daemon.backup.known_counts import KnownCounts
    from hsmd.daemon.backup.recount import Recount

    recount = Recount(KnownCounts.of(archive.read(STORE)))
    own = config.audit.directory
    if (own / LIVE_NAME).exists() or any((own / SEGMENTS).glob("*.jsonl")):
        recount.read(own, from_backup=audit_files > 0)
    for path in {each.resolve(): each for each in others if each.resolve() != own.resolve()}.values():
        if recount.read(path).records == 0:
            raise BadRequest(
                f"{path} has no audit records; name the directory of an audit log, with audit.jsonl and segments"
            )
    return recount


def _store(
    archive: Archive, config: Config, users: Users, undo: ExitStack, recount: Recount
) -> tuple[int, int, Raised]:
    """Restore the store, and raise its counts of uses.

    Returns how many limited grants it now refuses, how many management keys of the vault, and how many counts were raised.
    """
    from hsmd.daemon.backup.archive import STORE
    from hsmd.daemon.store import Store

    rows = archive.read(STORE)
    database = _sqlite_path(config.store_url)
    if database is not None:
        if database.exists():
            raise exists(database)
        make_directory_for_now(undo, database.parent)
        sqlite_store.remove_with(undo, database)
    store = Store(config.store_url)
    try:
        store.restore(rows)
        raised = _raise_counts(store, recount)
        held = sum(grant.left == 0 and grant.held for grant in store.load().limited_grants)
        held_keys = store.query(lambda tx: tx.vault_keys.count_held())
    finally:
        store.close()
    if database is not None:
        for path in (database.parent, database):
            users.give_to_front(path)
    return held, held_keys, raised


def _raise_counts(store: Store, recount: Recount) -> Raised:
    try:
        return recount.apply(store)
    except StoreFailure as problem:
        raise CommandError(
            f"the counts of uses in the restored store could not be raised: {problem.text}",
            "restore again, into an empty database",
        ) from None


def _sqlite_path(url: str) -> Path | None:
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def _steps(config: Config, audit_files: int, held_grants: int, held_keys: int, recount: Recount) -> list[str]:
    """The remaining steps."""
    steps = [
        f"Check that the token and its PIN are available: {', '.join(token.name for token in config.tokens)}"
    ]
    if not config.listen.host_key.exists():
        steps.append(
            f"Copy the SSH host key to {config.listen.host_key}: front ends pin it, and the archive does not contain it"
        )
    steps.append(f"Start the daemon: hsmd serve --config {config.path}")
    change = "ends before" if audit_files else "is new and does not continue"
    steps.append(
        f"Declare that the audit log {change} the one that agents have seen: hsmd audit discontinuity --help"
    )
    if held_grants:
        steps.append(
            f"State the limits of limited grants anew ({held_grants}): these are refused until then, because not all of their "
            f"uses after the backup may be known. hsmd grant list shows what is counted, with the logs that were read; count "
            f"uses of grants that were added again after the backup, and those in other logs, with hsmd audit show, then: "
            f"hsmd grant add CLIENT KEY --purpose PURPOSE --max-uses TOTAL"
        )
    if held_keys:
        steps.append(
            f"Ask the owners of keys in the vault for the fingerprints of their management keys ({held_keys}), and whether they "
            f"replaced them after the backup: these prove nothing until they are confirmed again with hsmd vault confirm OWNER "
            f"FINGERPRINT. Then owners state limits again: hsmd vault limits RECORD --confirm"
        )
    if step := recount_report.step(recount):
        steps.append(step)
    steps.append("Check the result: hsmd status, hsmd key list, hsmd client list")
    return steps
