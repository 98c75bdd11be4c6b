"""`hsmd audit verify`: check every record of the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.audit.options import PublicKey, app, content, key_ring, read_page
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.output import fields
from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.protocol.messages import MAX_PAGE
from hsmd.system.log_files import ARCHIVED_NAME, SEGMENTS, log_lines
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import NO_HEAD, Head, leaf_hash
from hsmd.transparency.note import Note
from hsmd.transparency.verification import LogVerdict, verify_log

if TYPE_CHECKING:
    from hsmd.cli.base.output import TextOutput


_ARCHIVED = "segments of this log were archived: copy them to segments/ of a copy of the log, and verify that"


@command(
    app,
    "verify",
    example="hsmd audit verify --public-key audit-key\n"
    "hsmd audit verify --checkpoint seen-on-monday --public-key audit-key\n"
    "hsmd audit verify --log /var/lib/hsmd/audit --public-key audit-key",
)
def verify(
    session: Session,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="PATH", help="Verify this log file or directory instead of the daemon's log."
        ),
    ] = None,
    public_key: PublicKey = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="An earlier checkpoint, which the log must contain; may be repeated.",
        ),
    ] = None,
    expect: Annotated[
        str,
        typer.Option(
            "--expect",
            metavar="SIZE:HEAD",
            help="An earlier size and head, which the log must contain.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Verify every record: hash chain, attempts and outcomes, Merkle tree, and checkpoint signatures.

    Give the public key that you saved when the daemon was new: without it, signatures are not verified. Changes after the
    newest checkpoint, and a truncated log, can only be detected by comparison with an earlier state: save the SIZE:HEAD that
    this command prints, or a checkpoint, and give it the next time (--expect, --checkpoint). Exit code 4 means that
    verification failed; the result names the first bad record.
    """
    keys = key_ring(public_key) if public_key else None
    seen = [_seen(path, keys) for path in checkpoint or []]
    watch = _HeadWatch(_head(expect) if expect else None)
    with _lines(session, log) as lines, session.output.working("verifying every record"):
        verdict = watch.judge(verify_log(watch.over(lines), keys, seen=seen))
    if log is not None and verdict.first_bad == 0 and (log / SEGMENTS / ARCHIVED_NAME).exists():
        verdict = replace(verdict, reason=f"{verdict.reason}; {_ARCHIVED}")
    document = {
        "intact": verdict.intact,
        "records": verdict.size,
        "head": verdict.head,
        "root": verdict.root,
        "checkpoints": verdict.checkpoints,
        "covered": verdict.covered,
        "signatures_checked": keys is not None,
        "open_attempts": verdict.open_attempts,
        "first_bad": verdict.first_bad,
        "last_bad": verdict.last_bad,
        "reason": verdict.reason,
    }
    session.output.show(document, lambda: _verdict(verdict, keys is not None))
    if not verdict.intact:
        raise CheckFailed


def _seen(path: Path, keys: KeyRing | None) -> Checkpoint:
    note = content(path)
    try:
        return checkpoints.parse_signed(note, keys) if keys else checkpoints.parse_text(Note.parse(note).text)
    except (ProofInvalid, ProtocolError) as problem:
        raise CommandError(
            f"{path}: {problem.text}", "give a file written by `hsmd audit checkpoint --out`", Exit.USAGE
        ) from None


class _HeadWatch:
    """Compares an earlier size and head with the records that are verified."""

    def __init__(self, expected: Head | None) -> None:
        self._expected = expected
        self._found = NO_HEAD

    def over(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        if self._expected is None:
            yield from lines
            return
        for number, line in enumerate(lines, 1):
            if number == self._expected.size:
                self._found = leaf_hash(line.removesuffix(b"\n")).hex()
            yield line

    def judge(self, verdict: LogVerdict) -> LogVerdict:
        expected = self._expected
        if expected is None or not verdict.intact or self._found == expected.head:
            return verdict
        if verdict.size < expected.size:
            bad, reason = verdict.size, f"the log ends here, but had {expected.size} records earlier"
        else:
            bad, reason = expected.size - 1, "the record differs from the one with the expected head"
        return replace(verdict, first_bad=bad, last_bad=bad, reason=f"record {bad}: {reason}")


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
        raise CommandError(
            f"{text!r} is not SIZE:HEAD", "give it as printed by `hsmd audit verify`", Exit.USAGE
        )
    return Head(int(size), head)


def _verdict(verdict: LogVerdict, signatures: bool) -> TextOutput:
    if not verdict.intact:
        first, last = verdict.first_bad, verdict.last_bad
        bad = str(first) if first == last else f"one of {first} to {last}"
        return fields([("audit log", "CHANGED"), ("first bad record", bad), ("reason", verdict.reason)])
    covered = f"{verdict.checkpoints}; the newest covers the first {verdict.covered} records"
    table = fields(
        [
            ("audit log", "intact"),
            ("records", str(verdict.size)),
            ("checkpoints", covered if verdict.checkpoints else "none yet"),
            ("signatures", "verified" if signatures else "NOT verified: give --public-key"),
            ("open attempts", str(verdict.open_attempts)),
        ]
    )
    return (
        table,
        f"\nSIZE:HEAD to save for --expect:\n{verdict.size}:{verdict.head}",
    )  # not wrapped, to be copied


@contextmanager
def _lines(session: Session, log: Path | None) -> Iterator[Iterator[bytes]]:
    if log is None:
        yield _remote_lines(session)
        return
    try:
        yield log_lines(log)
    except OSError as problem:
        raise CommandError(
            f"{problem.filename or log} cannot be read: {problem.strerror}",
            "name the log file or its directory",
            Exit.USAGE,
        ) from None


def _remote_lines(session: Session) -> Iterator[bytes]:
    """All records of the daemon, up to the size of the log at the first answer."""
    first, size = 0, 1
    while first < size:
        page = read_page(session, first, MAX_PAGE)
        size = page.size if first == 0 else size
        if page.first != first or not page.lines:
            return
        for line in page.lines[: size - first]:
            yield line.encode("utf-8", "surrogatepass") + b"\n"
        first += len(page.lines)
