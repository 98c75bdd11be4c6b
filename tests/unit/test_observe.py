"""Logging: one JSON line for each event, allowed fields only, no control characters and no secrets."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from hsmd import observe
from hsmd.errors import BadRequest, TokenFailure

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECRET = "4711-correct-horse"


@pytest.fixture
def written(stream):
    """Logging at level info, at noon; a function that returns the parsed lines."""
    observe.configure("front", "info", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A stream to configure logging with; logging is not configured before and after the test."""
    unconfigure()
    monkeypatch.setattr(time, "time", NOON.timestamp)
    monkeypatch.setattr(time, "time_ns", lambda: int(NOON.timestamp()) * 10**9)  # Python 3.13
    yield io.StringIO()
    unconfigure()


def unconfigure() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, observe._Handler)]:
        root.removeHandler(handler)
    logging.getLogger("hsmd").propagate = False


log = observe.logger()


def test_an_event_is_one_json_line(written):
    log.info("worker.ended", token="main", pid=42, elapsed_ms=1.5)
    assert written() == [
        {
            "time": "2026-11-21T12:00:00.000Z", "level": "info", "process": "front", "event": "worker.ended", "token": "main",
            "pid": 42, "elapsed_ms": 1.5,
        }
    ]  # fmt: skip


def test_no_line_is_written_before_configuration(capfd, stream):
    another_programs = io.StringIO()
    handler = logging.StreamHandler(another_programs)
    logging.getLogger().addHandler(handler)
    try:
        log.critical("anything", token="main")
    finally:
        logging.getLogger().removeHandler(handler)
    assert another_programs.getvalue() == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["pin", "password", "data", "answer", "signature", "premaster", "environment", "exc", "time_"]
)
@pytest.mark.parametrize("value", [SECRET, SECRET.encode(), [SECRET], {"a": SECRET}, ValueError(SECRET)])
def test_fields_not_on_the_list_never_appear(written, name, value):
    log.error("worker.ended", token="main", **{name: value})
    (line,) = written()
    assert SECRET not in json.dumps(line)
    assert (line["token"], line["dropped"]) == ("main", [name])


@pytest.mark.parametrize(
    "value", [SECRET.encode(), bytearray(SECRET.encode()), [SECRET], {"a": SECRET}, ValueError(SECRET)]
)
def test_values_of_other_types_never_show_their_content(written, value):
    log.error("worker.ended", error=value)
    (line,) = written()
    assert SECRET not in json.dumps(line)


def test_plain_values_are_written(written):
    class Colour(Enum):
        RED = "red"

    log.info(
        "x",
        reason=Colour.RED,
        path=Path("/etc/hsmd.toml"),
        count=None,
        state=True,
        code=1 << 80,
        port=1 << 40,
    )
    (line,) = written()
    assert (line["reason"], line["path"], line["count"], line["state"], line["port"]) == (
        "red",
        "/etc/hsmd.toml",
        None,
        True,
        1 << 40,
    )
    assert line["code"] == "<int>"


def test_fields_cannot_replace_the_standard_ones(written):
    log.info("x", level="critical", time="never", process="launcher")
    (line,) = written()
    assert (line["level"], line["process"], line["time"]) == ("info", "front", "2026-11-21T12:00:00.000Z")
    assert line["dropped"] == ["level", "process", "time"]


def test_an_exception_shows_type_and_line_but_not_its_text(written):
    try:
        raise TokenFailure(detail=SECRET)
    except TokenFailure:
        log.exception("worker.ended", token="main")
    (line,) = written()
    assert line["error"].startswith("TokenFailure at test_observe.py:")
    assert SECRET not in json.dumps(line)


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=700) | st.just("x" * 1_000_000))
def test_hostile_text_stays_on_one_line_of_printable_ascii(text):
    stream = io.StringIO()
    observe.configure("front", "info", stream)
    log.info(text, client=text)
    unconfigure()
    line = stream.getvalue().removesuffix("\n")
    assert all(" " <= character <= "~" for character in line)
    assert len(line) < 15_000
    shown = json.loads(line)["client"]
    assert shown == text or (
        len(shown) == observe.MAX_VALUE_CHARACTERS and shown[:-1] == text[: len(shown) - 1]
    )


def test_events_below_the_level_are_dropped(written, stream):
    log.debug("too low")
    log.info("logged")
    observe.configure("front", "error", stream)
    log.warning("too low now")
    log.error("logged too")
    log.critical("logged as well", token="main")
    assert [line["event"] for line in written()] == ["logged", "logged too", "logged as well"]
    assert written()[-1]["token"] == "main"
    with pytest.raises(BadRequest, match="debug, info, warning"):
        observe.configure("front", "loud")


def test_libraries_are_logged_from_warning_up_without_bytes_or_tracebacks(written):
    library = logging.getLogger("asyncssh")
    library.info("a connection")
    library.warning("peer sent %r as %s", SECRET.encode(), "name\n\x1b[2J")
    library.error("%(a)s", {"a": SECRET.encode()})
    try:
        raise ValueError(SECRET)
    except ValueError:
        library.exception("in a callback")
    lines = written()
    assert [line["level"] for line in lines] == ["warning", "error", "error"]
    assert lines[0]["message"] == "peer sent '<18 bytes>' as name\n\x1b[2J"
    assert lines[2]["error"].startswith("ValueError at test_observe.py")
    assert SECRET not in json.dumps(lines)
    assert {line["library"] for line in lines} == {"asyncssh"}


def test_a_message_with_wrong_arguments_is_logged_unformatted():
    assert observe._message("bad arguments %d", ("text",)) == "bad arguments %d"


def test_configuring_twice_writes_each_event_once(written, stream):
    observe.configure("front", "info", stream)
    logging.getLogger("asyncssh").warning("once")
    log.warning("once", token="main")
    assert len(written()) == 2


def test_a_log_that_cannot_be_written_raises_no_error(stream, capfd):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    observe.configure("front", "debug", Closed())
    log.error("x")
    logging.getLogger("asyncssh").error("x")
    stream.close()
    observe.configure("front", "debug", stream)
    log.error("x")
    assert capfd.readouterr() == ("", "")


def test_a_full_pipe_does_not_block(stream):
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with (
        suppress(BlockingIOError),
        os.fdopen(writer, "w") as pipe,
    ):  # closing it writes the rest of its buffer
        observe.configure("front", "debug", pipe)
        for _ in range(1000):
            log.error("x", reason="y" * 500)
        unconfigure()
        assert len(os.read(reader, 1 << 20)) > 1000
    os.close(reader)


def test_a_record_may_be_formatted_by_two_handlers(written, stream):
    handler = logging.StreamHandler(other := io.StringIO())
    (ours,) = [each for each in logging.getLogger().handlers if isinstance(each, observe._Handler)]
    handler.setFormatter(ours.formatter)
    logging.getLogger().addHandler(handler)
    try:
        log.error("x", token="main", pin=SECRET, exc_info=ValueError(SECRET))
    finally:
        logging.getLogger().removeHandler(handler)
    assert other.getvalue() == stream.getvalue() != ""
    assert written()[0]["dropped"] == ["pin"]
