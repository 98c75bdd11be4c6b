"""Logging: one JSON line for each event, with an allow-list of fields, so that no secret can slip into a log by its name.

Loggers are made with `logger()` at import; nothing is written until a process calls `configure`, and no
global state of structlog is touched, because the client is also a library inside other people's programs.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger

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
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LEVEL_NAMES = {number: name for name, number in _LEVELS.items()}
_METHOD_LEVELS = _LEVELS | {"exception": 40, "warn": 30, "fatal": 50}


@dataclass(slots=True)
class _Settings:
    process: str = ""
    level: int = 100
    stream: TextIO | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


_settings = _Settings()


def configure(
    process: str,
    level: str,
    stream: TextIO | None = None,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Write events of `level` and above to `stream` (standard error by default); may be called again.

    Libraries that use the standard `logging` are heard from WARNING up. Raises BadRequest for an unknown
    level.
    """
    if level not in _LEVELS:
        raise BadRequest(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}")
    _settings.process, _settings.level, _settings.clock = process, _LEVELS[level], clock
    _settings.stream = sys.stderr if stream is None else stream
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(logging.WARNING))
    root.setLevel(logging.WARNING)


def logger() -> FilteringBoundLogger:
    """A logger: `log.info("worker.ended", token=..., pid=...)`."""
    wrapped = structlog.wrap_logger(
        _Sink(),
        processors=[_drop_below_level, _keep_allowed, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    return cast("FilteringBoundLogger", wrapped)


class _Sink:
    """The end of the line: what structlog calls with a finished line, whatever the level."""

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def _write(line: str) -> None:
    stream = _settings.stream
    if stream is None:
        return
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass  # a log that cannot be written must not stop the service; what must be kept is in the audit log


Event = MutableMapping[str, Any]


def _drop_below_level(_: object, method: str, event: Event) -> Event:
    if _METHOD_LEVELS.get(method, logging.INFO) < _settings.level:
        raise structlog.DropEvent
    return event


def _keep_allowed(_: object, method: str, event: Event) -> Event:
    kept: dict[str, Any] = {
        "time": _settings.clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _LEVEL_NAMES[_METHOD_LEVELS.get(method, logging.INFO)],
        "process": _settings.process,
        "event": _bounded(event.pop("event", "")),
    }
    problem = _origin(event.pop("exc_info", None))
    kept |= {name: _bounded(value) for name, value in event.items() if name in FIELDS}
    if problem:
        kept.setdefault("error", problem)
    dropped = sorted(str(name)[:64] for name in event if name not in FIELDS)
    if dropped:
        kept["dropped"] = dropped[:_MAX_DROPPED]
    return kept


def _render(_: object, __: str, event: Event) -> str:
    # ASCII only: everything a terminal could take for a command or a change of direction is escaped.
    return json.dumps(event, separators=(",", ":")).replace("\x7f", "\\u007f")


def _bounded(value: object) -> str | int | float | bool | None:
    """A value as a log line may hold it. Bytes and unknown objects never show their content."""
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
    """Type and place of an exception; its message may hold what nobody should read."""
    if exc_info is True:
        exc_info = sys.exc_info()
    problem = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(problem, BaseException):
        return ""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(problem).__name__}{place}"


class _LibraryHandler(logging.Handler):
    """Records of the standard `logging` as lines of ours: bounded message, no bytes, no traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < _settings.level:
            return
        method = _LEVEL_NAMES.get(record.levelno // 10 * 10, "critical")
        event: Event = {"event": "library", "library": record.name, "message": _message(record)}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        _write(_render(None, method, _keep_allowed(None, method, event)))


def _message(record: logging.LogRecord) -> str:
    """The text with its arguments filled in; of bytes only the length."""
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
