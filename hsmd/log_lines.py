"""What all processes of hsmd that write a log share: its lines in JSON, and their priority for the journal of systemd.

Token workers write their few lines with `write`: structlog would cost each of them 8 MB and a third of the time of its start.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""The levels of syslog(3)."""


def to_json(line: Mapping[str, Any], **options: Any) -> str:
    """JSON escapes all but ASCII; DEL is the one control character that it leaves, and a terminal could obey it."""
    return json.dumps(line, **options).replace("\x7f", "\\u007f")


def format_time(moment: datetime) -> str:
    """The time of a line: UTC, with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def priority(level: str, stream: TextIO) -> str:
    """What begins a line of this level: `<3>` for the journal (sd-daemon(3)), nothing for any other stream."""
    return f"<{PRIORITIES.get(level, PRIORITIES['info'])}>" if is_journal(stream) else ""


def is_journal(stream: TextIO) -> bool:
    """Whether what is written to a stream goes to the journal of systemd (JOURNAL_STREAM of systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{status.st_dev}:{status.st_ino}"


def write(process: str, level: str, event: str, **fields: str | int) -> None:
    """Write one line to standard error. The caller answers for it that no field holds a secret."""
    line = {
        "time": format_time(datetime.now(UTC)),
        "level": level,
        "process": process,
        "event": event,
        **fields,
    }
    text = to_json(line, ensure_ascii=True, separators=(",", ":"))
    print(f"{priority(level, sys.stderr)}{text}", file=sys.stderr, flush=True)
