"""Logging: one JSON line for each event, with an allow-list of fields, so that no secret gets into a log by its name.

structlog collects and renders them; they go through the standard `logging` as records of the logger `hsmd`. They are written
only once a process calls `configure`, because the client is also a library inside other programs, whose logging stays theirs.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import TextIO, cast

import structlog
from structlog.processors import JSONRenderer
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor

from hsmd.errors import BadRequest
from hsmd.log_lines import format_time, priority, to_json

FIELDS = frozenset(
    {
        "address", "attempt", "client", "code", "count", "daemon", "detail", "elapsed_ms", "error",
        "fingerprint", "host", "in_flight", "key", "key_name", "library", "listener", "message", "op",
        "path", "pid", "port", "purpose", "reason", "role", "rule", "scheme", "signal", "state",
        "token", "uid", "version", "worker",
    }
)  # fmt: skip
"""The fields a log line may have besides time, level, process and event; of others only the name appears, in `dropped`."""

MAX_VALUE_CHARACTERS = 512
_MAX_DROPPED = 16
_LEVELS = ("debug", "info", "warning", "error", "critical")

_events = logging.getLogger("hsmd")
_events.addHandler(logging.NullHandler())
_events.propagate = False


def configure(process: str, level: str, stream: TextIO | None = None) -> None:
    """Write events of `level` and above to `stream` (standard error by default); may be called again.

    Records of libraries that use the standard `logging` are written from WARNING up. Raises BadRequest for an unknown level.
    """
    if level not in _LEVELS:
        raise BadRequest(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_formatter(process))
    handler.setLevel(level.upper())
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    _events.setLevel(level.upper())
    _events.propagate = True


def logger() -> BoundLogger:
    """A logger: `log.info("worker.ended", token=..., pid=...)`. `exc_info` and `exception` write type and place only."""
    to_formatter: list[Processor] = [structlog.stdlib.filter_by_level, ProcessorFormatter.wrap_for_formatter]
    # Bound at once: the proxy that wrap_logger returns would do that again for each event.
    return cast("BoundLogger", structlog.wrap_logger(_events, to_formatter, BoundLogger).bind())


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream. A log that cannot be written must not stop the service; the audit log is separate."""

    def format(self, record: logging.LogRecord) -> str:
        return priority(_level(record), self.stream) + super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is that of the standard library
        pass


def _formatter(process: str) -> ProcessorFormatter:
    """Makes lines of events and of records of libraries: allowed fields, bounded values, no bytes, no traceback."""
    return ProcessorFormatter(
        processors=[partial(_line, process), JSONRenderer(to_json, separators=(",", ":"))],
        foreign_pre_chain=[_library_event],
        use_get_message=False,
        pass_foreign_args=True,
    )


def _library_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The event of a record that a library wrote with the standard `logging`."""
    record: logging.LogRecord = event["_record"]
    made: EventDict = {
        "event": "library",
        "library": record.name,
        "message": _message(record.msg, event["positional_args"]),
        "_record": record,
        "_from_structlog": False,
    }
    if "exc_info" in event:
        made["exc_info"] = event["exc_info"]
    return made


def _line(process: str, _logger: object, _method: str, event: EventDict) -> EventDict:
    """The members of a line, in their order."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    error = _origin(event.pop("exc_info", None))
    line: EventDict = {
        "time": format_time(datetime.fromtimestamp(record.created, UTC)),
        "level": _level(record),
        "process": process,
        "event": _bounded(event.pop("event", "")),
    }
    line.update({name: _bounded(value) for name, value in event.items() if name in FIELDS})
    if error:
        line.setdefault("error", error)
    dropped = sorted(name[:64] for name in event if name not in FIELDS)
    if dropped:
        line["dropped"] = dropped[:_MAX_DROPPED]
    return line


def _level(record: logging.LogRecord) -> str:
    return _LEVELS[min(max(record.levelno // 10, 1), len(_LEVELS)) - 1]


def _bounded(value: object) -> str | int | float | bool | None:
    """The value as it is written. The content of bytes and unknown objects is never shown."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if not isinstance(value, str | PurePath | datetime):
        return f"<{type(value).__name__}>"
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "\u2026"


def _origin(exc_info: object) -> str:
    """Type and place of an exception, whose message may hold secrets; empty if there is none."""
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def _message(text: object, arguments: object) -> str:
    """The text with its arguments filled in, of bytes only the length; the bare text if they do not fit."""
    if not isinstance(text, str):
        return str(_bounded(text))
    try:
        if isinstance(arguments, dict):
            return text % {name: _shown(value) for name, value in arguments.items()}
        return text % tuple(map(_shown, arguments)) if isinstance(arguments, tuple) and arguments else text
    except (TypeError, ValueError, KeyError):
        return text


def _shown(value: object) -> object:
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray | memoryview) else value
