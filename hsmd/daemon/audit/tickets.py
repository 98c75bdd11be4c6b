"""Finds in the log the records that have one of some tickets."""

from __future__ import annotations

import time
from collections.abc import Collection

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.transparency.records import parse_record

_PAUSE_EVERY = 1_000


def find_tickets(files: FilesAtHand, event: str, tickets: Collection[str]) -> dict[str, int]:
    """The index of the record of this event for each ticket that has one.

    A ticket begins with the index that the log had reached when it was made, so the log is read from the first of these on.
    Raises OSError, or AuditFailure if the log was changed.
    """
    wanted, found = set(tickets), dict[str, int]()
    marker = f'"event":"{event}"'.encode()
    for number, (index, line) in enumerate(files.lines(min(map(_made_at, tickets)))):
        if marker in line:
            ticket = str(_fields(line).get("ticket", ""))
            if ticket in wanted:
                found[ticket] = index
        if number % _PAUSE_EVERY == 0:
            time.sleep(0)  # let the event loop have the interpreter
    return found


def _made_at(ticket: str) -> int:
    index = ticket.partition("-")[0]
    return int(index) if index.isascii() and index.isdigit() and len(index) <= 16 else 0


def _fields(line: bytes) -> dict[str, str | int]:
    try:
        return parse_record(line.removesuffix(b"\n")).fields
    except ProtocolError as problem:
        raise AuditFailure(
            detail=f"a line of the log is no record: {problem.text}; run `hsmd audit verify`"
        ) from None
