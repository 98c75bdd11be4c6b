"""`hsmd audit verify-export`: check exported records without the daemon."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmd.cli.audit.options import EXPORT_FORMAT, app, key_ring
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CheckFailed
from hsmd.cli.base.output import Output, fields
from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.system.input_files import open_file
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import verify_inclusion
from hsmd.transparency.records import MAX_LINE_BYTES, parse_record


@command(app, "verify-export", example="hsmd audit verify-export records --public-key audit-key")
def verify_export(
    output: Output,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Output of `hsmd audit export`; - for standard input.")
    ],
    public_key: Annotated[
        Path,
        typer.Option(
            "--public-key",
            metavar="FILE",
            help="Trusted key for checkpoint signatures: PEM, or the output of `hsmd audit key`.",
            show_default=False,
        ),
    ],
) -> None:
    """Verify exported records against the signed checkpoint in the export.

    Exit code 4 means that verification failed.
    """
    keys = key_ring(public_key)
    source = sys.stdin.buffer if str(file) == "-" else os.fdopen(open_file(file), "rb")
    with source:
        try:
            document = _verified(iter(partial(source.readline, 2 * MAX_LINE_BYTES), b""), keys)
        except (ProtocolError, ProofInvalid) as problem:
            document = {"intact": False, "reason": problem.text}
    output.show(document, lambda: fields([(name, _shown(value)) for name, value in document.items()]))
    if not document["intact"]:
        raise CheckFailed


def _shown(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _verified(lines: Iterator[bytes], keys: KeyRing) -> dict[str, Any]:
    head = _head(next(lines, b""))
    found = checkpoints.parse_signed(str(head["note"]), keys)
    index, before = int(head["first"]), ""
    for line in lines:
        record = parse_record(line.removesuffix(b"\n"))
        if record.index != index or (before and record.previous != before):
            raise ProofInvalid(f"record {record.index} does not continue the previous one")
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
        if (
            head["format"] == EXPORT_FORMAT
            and head["first"] <= head["last"]
            and isinstance(head["proof"], list)
        ):
            return head
    except (ValueError, KeyError, TypeError):
        pass
    raise ProtocolError("this is not an export of `hsmd audit export`")
