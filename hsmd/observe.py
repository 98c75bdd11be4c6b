"""Logging: one JSON line for each event, with an allow-list of fields, so that no secret gets into a log by its name.

Events go through the standard `logging` as records of the logger `hsmd`. They are written only once a process calls
`configure`, because the client is also a library inside other programs, whose logging stays theirs.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import TextIO

from hsmd.errors import BadRequest

FIELDS = frozenset(
    {
        "address",
        "attempt",
        "client",
        "code",
        "count",
        "daemon",
        "detail",
        "elapsed_ms",
        "error",
        "fingerprint",
        "host",
        "in_flight",
        "key",
        "key_name",
        "library",
        "listener",
        "message",
        "op",
        "path",
        "pid",
        "port",
        "purpose",
        "reason",
        "role",
        "rule",
        "scheme",
        "signal",
        "state",
        "token",
        "uid",
        "version",
        "worker",
    }
)
"""The fields a log line may have besides time, level, process and event; of others only the name appears, in `dropped`."""

MAX_VALUE_CHARACTERS = 512
_MAX_DROPPED = 16
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_LEVEL_NAMES = {number: name for name, number in _LEVELS.items()}

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
    handler.setFormatter(_Formatter(process))
    handler.setLevel(_LEVELS[level])
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    _events.setLevel(_LEVELS[level])
    _events.propagate = True


class EventLogger:
    """Logs events: `log.info("worker.ended", token=..., pid=...)`."""

    def debug(self, event: str, /, **fields: object) -> None:
        """Details for developers."""
        _log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """An expected event."""
        _log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """An unexpected event that the daemon handles."""
        _log(logging.WARNING, event, fields)

    def error(self, event: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """A failure; of the exception that caused it, type and place are written."""
        _log(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, /, **fields: object) -> None:
        """A failure, with the exception that is being handled."""
        _log(logging.ERROR, event, fields, sys.exception())

    def critical(self, event: str, /, **fields: object) -> None:
        """A failure that ends the process."""
        _log(logging.CRITICAL, event, fields)


_logger = EventLogger()


def logger() -> EventLogger:
    """The logger of a module."""
    return _logger


class _Event(logging.LogRecord):
    """An event with its fields."""

    def __init__(
        self, level: int, event: str, fields: dict[str, object], error: BaseException | None
    ) -> None:
        super().__init__(_events.name, level, "", 0, event, (), None)
        self.fields = fields
        self.error = error


def _log(level: int, event: str, fields: dict[str, object], error: BaseException | None = None) -> None:
    if _events.isEnabledFor(level):
        _events.handle(_Event(level, event, fields, error))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream. A log that cannot be written must not stop the service; the audit log is separate."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is that of the standard library
        pass


class _Formatter(logging.Formatter):
    """Makes lines of events and of records of libraries: allowed fields, bounded values, no bytes, no traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record, _Event):
            event, fields, error = record.msg, record.fields, record.error
        else:
            event, fields = "library", {"library": record.name, "message": _message(record)}
            error = record.exc_info[1] if record.exc_info else None
        line = self._line(record, event, fields, error)
        # ASCII only: everything that a terminal could take for a command or a change of direction is escaped.
        return json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f")

    def _line(
        self, record: logging.LogRecord, event: str, fields: dict[str, object], error: BaseException | None
    ) -> dict[str, object]:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": _LEVEL_NAMES.get(record.levelno // 10 * 10, "critical"),
            "process": self._process,
            "event": _bounded(event),
        }
        line |= {name: _bounded(value) for name, value in fields.items() if name in FIELDS}
        if error is not None:
            line.setdefault("error", _origin(error))
        dropped = sorted(name[:64] for name in fields if name not in FIELDS)
        if dropped:
            line["dropped"] = dropped[:_MAX_DROPPED]
        return line


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


def _origin(error: BaseException) -> str:
    """Type and place of an exception; its message may hold secrets."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def _message(record: logging.LogRecord) -> str:
    """The text with its arguments filled in, of bytes only the length; the bare text if they do not fit."""
    if not isinstance(record.msg, str):
        return str(_bounded(record.msg))
    try:
        if isinstance(record.args, dict):
            return record.msg % {name: _shown(value) for name, value in record.args.items()}
        return record.msg % tuple(_shown(value) for value in record.args or ()) if record.args else record.msg
    except (TypeError, ValueError, KeyError):
        return record.msg


def _shown(value: object) -> object:
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray | memoryview) else value
