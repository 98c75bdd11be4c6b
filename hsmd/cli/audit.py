"""`hsmd audit`: reading the audit log, and checking that nobody changed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli import audit_rows
from hsmd.cli.commands import command, group
from hsmd.cli.connection import Session
from hsmd.cli.failures import Exit, ProblemsFound, Stop
from hsmd.cli.output import fields, table
from hsmd.errors import NotFound
from hsmd.protocol.messages import MAX_PAGE, AuditPage, AuditRead, KeyInfo, KeyShow
from hsmd.transparency.chain import NO_HEAD, Head, Verdict, verify as verify_chain
from hsmd.transparency.records import MAX_LINE_BYTES

if TYPE_CHECKING:
    from rich.console import RenderableType

app = group(
    """The audit log.

    Every use of a key is recorded before and after it happens, with who asked, and every control operation. Each record holds
    the hash of the one before it, so that a change, a gap or a swap shows."""
)


@command(
    app,
    "show",
    example="hsmd audit show\nhsmd audit show --client web1 --count 200\nhsmd audit show --key www --json",
)
def show(
    session: Session,
    client: Annotated[
        str, typer.Option("--client", metavar="NAME", help="Only of this client.", show_default=False)
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="NAME", help="Only about this key.", show_default=False)
    ] = "",
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=100_000, help="How many, counted from the end.")
    ] = 50,
) -> None:
    """Show the newest records, oldest of them first.

    An attempt and its outcome are one row. The result "open" means that no outcome has been recorded (yet).
    """
    wanted = audit_rows.Filter(client, key, _digest_of(session, key) if key else "")
    rows, size = audit_rows.newest(partial(_page, session), wanted, count)
    session.output.show(
        {"size": size, "records": [row.document for row in rows]},
        lambda: table(audit_rows.HEADERS, [row.cells for row in rows]),
    )


@command(
    app,
    "verify",
    example="hsmd audit verify\n"
    "hsmd audit verify --expect 1041:5c0f...e2\n"
    "hsmd audit verify --log /var/lib/hsmd/audit/audit.jsonl",
)
def verify(
    session: Session,
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="Check this file instead of asking the daemon."),
    ] = None,
    expect: Annotated[
        str,
        typer.Option(
            "--expect",
            metavar="SIZE:HEAD",
            help="The log must contain this head, noted earlier.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Check the hash chain over all records.

    Note the SIZE:HEAD it prints somewhere else, and give it with --expect the next time: only then can a log that was cut
    off or rewritten as a whole be told from an honest one. Exit code 4 means that something is wrong, and the answer names
    the first bad record.
    """
    expected = _head(expect) if expect else None
    with _lines(session, log) as lines, session.output.working("checking every record"):
        verdict = verify_chain(lines, expected)
    document = {
        "intact": verdict.intact,
        "records": verdict.count,
        "head": verdict.head,
        "first_bad": verdict.first_bad,
        "reason": verdict.reason,
    }
    session.output.show(document, lambda: _verdict(verdict))
    if not verdict.intact:
        raise ProblemsFound


def _verdict(verdict: Verdict) -> RenderableType:
    if not verdict.intact:
        return fields(
            [
                ("audit log", "CHANGED"),
                ("first bad record", str(verdict.first_bad)),
                ("reason", verdict.reason),
            ]
        )
    return fields(
        [
            ("audit log", "intact"),
            ("records", str(verdict.count)),
            ("SIZE:HEAD", f"{verdict.count}:{verdict.head}"),
        ]
    )


def _head(text: str) -> Head:
    size, colon, head = text.partition(":")
    fits = (
        colon
        and size.isascii()
        and size.isdigit()
        and len(head) == len(NO_HEAD)
        and set(head) <= set("0123456789abcdef")
    )
    if not fits:
        raise Stop(
            f"{text!r} is not SIZE:HEAD", "give it as an earlier `hsmd audit verify` printed it", Exit.USAGE
        )
    return Head(int(size), head)


@contextmanager
def _lines(session: Session, log: Path | None) -> Iterator[Iterator[bytes]]:
    if log is None:
        yield _remote_lines(session)
        return
    with log.open("rb") as file:
        yield iter(partial(file.readline, 2 * MAX_LINE_BYTES), b"")


def _remote_lines(session: Session) -> Iterator[bytes]:
    """All records of the daemon, up to the size the log had at the first answer."""
    first, size = 0, 1
    while first < size:
        page = _page(session, first, MAX_PAGE)
        size = page.size if first == 0 else size
        if page.first != first or not page.lines:
            return
        yield from (line.encode("utf-8", "surrogatepass") for line in page.lines[: size - first])
        first += len(page.lines)


def _page(session: Session, first: int, limit: int) -> AuditPage:
    return session.ask(AuditRead(first=first, limit=limit), AuditPage)


def _digest_of(session: Session, key: str) -> str:
    """The key's digest, by which refusals name it; empty for a key that is gone."""
    try:
        return session.ask(KeyShow(name=key), KeyInfo).digest
    except NotFound:
        return ""
