"""Finds in the log the attempts and the records of counted uses of limited grants."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.transparency.records import GRANT_USED_EVENT, Record, parse_record

_USED = f'"event":"{GRANT_USED_EVENT}"'.encode()
_PAUSE_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """`attempts`: those that the log has; `records`: the index of the record of its use, by the index of an attempt."""

    attempts: set[int] = field(default_factory=set)
    records: dict[int, int] = field(default_factory=dict)


def find_uses(files: FilesAtHand, attempts: Mapping[int, str], size: int) -> Found:
    """Look for attempts (their indices, each with the key's digest in hex), and for the uses that follow from them.

    Attempts are among the first `size` records: a log that lost its end gives their indices to other ones. Reads the log
    from the first of them on. Raises OSError, or AuditFailure if the log was changed.
    """
    found = Found()
    for number, (index, line) in enumerate(files.lines(min(attempts))):
        if index in attempts and index < size:
            record = _record(line)
            if record.event == "attempt" and record.key == attempts[index]:
                found.attempts.add(index)
        elif _USED in line:
            attempt = _record(line).fields.get("attempt")
            if isinstance(attempt, int) and attempt in found.attempts:
                found.records[attempt] = index
        if number % _PAUSE_EVERY == 0:
            time.sleep(0)  # let the event loop have the interpreter
    return found


def _record(line: bytes) -> Record:
    try:
        return parse_record(line.removesuffix(b"\n"))
    except ProtocolError as problem:
        raise AuditFailure(
            detail=f"a line of the log is no record: {problem.text}; run `hsmd audit verify`"
        ) from None
