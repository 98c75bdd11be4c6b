"""`hsmd audit export`, `verify-export` and `about`: records for a third party, and records about oneself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, key_ring, read_page
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.failures import Exit, ProblemsFound, Stop
from hsmd.cli.base.output import Output, escape, fields
from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.protocol.messages import MAX_PAGE, AuditAbout, AuditLines, AuditProve, InclusionProof
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import verify_inclusion
from hsmd.transparency.note import Note
from hsmd.transparency.records import MAX_LINE_BYTES, parse_record

FORMAT = "hsmd audit export v1"


@command(
    app,
    "export",
    example="hsmd audit export --first 1000 --last 1999 > records\nhsmd audit verify-export records --public-key audit-key",
)
def export(
    session: Session,
    first: Annotated[int, typer.Option("--first", metavar="INDEX", min=0, help="The first record.")],
    last: Annotated[int, typer.Option("--last", metavar="INDEX", min=0, help="The last record.")],
) -> None:
    """Print a range of records with what a third party needs to check them without the daemon.

    The first line is a JSON object with the signed checkpoint and the proof that it covers the last record. The records follow as
    they stand in the log; each holds the hash of the one before it, so the last one proves them all.
    """
    if last < first:
        raise Stop(
            f"record {last} stands before record {first}", "give --first and --last in order", Exit.USAGE
        )
    proven = session.ask(AuditProve(index=last), InclusionProof)
    head = {
        "format": FORMAT, "first": first, "last": last, "note": proven.note,
        "proof": [step.hex() for step in proven.proof],
    }  # fmt: skip
    print(json.dumps(head))
    while first <= last:
        page = read_page(session, first, min(MAX_PAGE, last - first + 1))
        if page.first != first or not page.lines:
            raise ProtocolError(f"the daemon does not show record {first}")
        for line in page.lines:
            print(line)
        first += len(page.lines)


@command(app, "verify-export", example="hsmd audit verify-export records --public-key audit-key")
def verify_export(
    output: Output,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `hsmd audit export` printed; - for standard input.")
    ],
    public_key: Annotated[
        Path,
        typer.Option(
            "--public-key", metavar="FILE", help="Who signs the log's checkpoints.", show_default=False
        ),
    ],
) -> None:
    """Check exported records against the checkpoint that came with them. Exit code 4 means that something is wrong."""
    keys = key_ring(public_key)
    source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    with source:
        try:
            document = _verified(iter(partial(source.readline, 2 * MAX_LINE_BYTES), b""), keys)
        except (ProtocolError, ProofInvalid) as problem:
            document = {"intact": False, "reason": problem.text}
    output.show(document, lambda: fields([(name, str(value)) for name, value in document.items()]))
    if not document["intact"]:
        raise ProblemsFound


@command(app, "about", example="hsmd audit about\nhsmd audit about --first 20000 --json")
def about(
    session: Session,
    first: Annotated[
        int, typer.Option("--first", metavar="INDEX", min=0, help="Begin with this record.")
    ] = 0,
) -> None:
    """Print the records that you may read: those about you, and about the keys you own.

    With --json each line is the record as it stands in the log. An auditor or operator sees all records.
    """
    while True:
        page = session.ask(AuditAbout(first=first, limit=MAX_PAGE), AuditLines)
        for line in page.lines:
            print(line if session.output.as_json else escape(rows.one_line(line)), flush=True)
        if page.next >= page.size or page.next <= first:
            return
        first = page.next


def _verified(lines: Iterator[bytes], keys: KeyRing) -> dict[str, Any]:
    head = _head(next(lines, b""))
    note = Note.parse(str(head["note"]))
    signature = note.signatures[0]
    found = checkpoints.parse(note, keys.verifier(signature.name, signature.key_id))
    index, before = int(head["first"]), ""
    for line in lines:
        record = parse_record(line.removesuffix(b"\n"))
        if record.index != index or (before and record.previous != before):
            raise ProofInvalid(f"record {record.index} does not follow from the one before it")
        before = leaf_hash(line.removesuffix(b"\n")).hex()
        index += 1
    last = int(head["last"])
    if index != last + 1:
        raise ProofInvalid(f"record {index} is missing")
    proof = [bytes.fromhex(step) for step in head["proof"]]
    verify_inclusion(last, found.size, bytes.fromhex(before), proof, found.root)
    return {
        "intact": True,
        "origin": found.origin,
        "first": head["first"],
        "last": last,
        "checkpoint": found.size,
    }


def _head(line: bytes) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(line)
        if head["format"] == FORMAT and head["first"] <= head["last"] and isinstance(head["proof"], list):
            return head
    except (ValueError, KeyError, TypeError):
        pass
    raise ProtocolError("this is not what `hsmd audit export` prints")
