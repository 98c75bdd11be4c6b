"""`hsmd events`: show events, follow them, and run a program for each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import not_empty
from hsmd.cli.base.output import escape, note, table, when
from hsmd.cli.events.cursor_file import CursorFile, default_file
from hsmd.cli.events.program import DEFAULT_TIMEOUT_S, Program
from hsmd.errors import HsmdError
from hsmd.protocol.messages import (
    MAX_PAGE,
    MISSED,
    NOW,
    POSITION,
    Event,
    EventPage,
    EventsRead,
    missed_event,
    position_event,
)
from hsmd.protocol.messages.enumerations import EVENT_KIND

app = typer.Typer(add_completion=False)

HEADERS = ("ID", "TIME", "KIND", "SUBJECT", "DETAILS")
_WHY = {
    "expired": "they are older than what the daemon keeps",
    "restored": "the daemon's store was restored from a backup",
    "unknown": "the cursor is not of this daemon's store, so all that are kept follow",
}

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z")

Take = Callable[[Event], None]
"""Deals with one event; it returns when that is done."""


@command(
    app,
    "events",
    example=(
        "hsmd events\n"
        "hsmd events --follow --kind certificate.ending --json\n"
        "hsmd events --follow --exec '/usr/local/bin/renew --quiet'"
    ),
)
def events(
    session: Session,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="CURSOR",
            help="Begin behind this event (its ID), or `now`. Default: all that are kept; `now` with --follow alone.",
        ),
    ] = "",
    kind: Annotated[
        list[str] | None, typer.Option("--kind", metavar="KIND", help="Only this kind; may be repeated.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep on with events as they happen, until interrupted.")
    ] = False,
    program: Annotated[
        str,
        typer.Option(
            "--exec",
            metavar="PROGRAM",
            help="Run this for each event, until it exits with 0. It gets the event as JSON on its standard input.",
            callback=not_empty,
        ),
    ] = "",
    exec_timeout: Annotated[
        float,
        typer.Option(
            "--exec-timeout", metavar="SECONDS", min=0.1, help="End a run of the program after this time."
        ),
    ] = DEFAULT_TIMEOUT_S,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="FILE",
            help="File to save the cursor in; the next start goes on behind it. Default: in ~/.local/state/hsmd with "
            "--exec, none without.",
        ),
    ] = None,
) -> None:
    """Show what happened to keys, tokens, clients and the log, as far as you may know.

    With --follow it goes on until it is interrupted, over interruptions of the connection. With --json each event is one line
    then.

    With --exec a program is run for each event, one at a time and in order, and again after a pause until it exits with 0.
    PROGRAM may have arguments; no shell is involved. Then the cursor is saved, so that the next start of this command goes on
    behind it. After a crash the program may get one event twice, with the same id. Events that are not kept any more are
    reported as one event of the kind `events.missed`.
    """
    _check_kinds(kind or [])
    if not (follow or program or state):
        _show(session, since, frozenset(kind or ()))
        return
    runner = Program(program, exec_timeout) if program else None
    file = state or (default_file(session.profile(), runner.command) if runner else None)
    with CursorFile(file) as saved:
        begin = _begin(session, since or (NOW if file is None else ""), saved)
        source = _follow(session, begin) if follow else _stored(session, begin)
        take: Take = runner.run if runner else partial(_print, session)
        _deal_with(source, frozenset(kind or ()), take, saved)


def _check_kinds(kinds: list[str]) -> None:
    """Point out what may be a typing error; a daemon of a later release may know more kinds."""
    for kind in kinds:
        if kind not in EVENT_KIND.values:
            note(f"hsmd: this release knows no kind {kind!r}; it knows {', '.join(EVENT_KIND.values)}")


def _begin(session: Session, since: str, saved: CursorFile) -> str:
    """Where to begin: behind the saved cursor; the first time as --since says, which is saved if it is `now`."""
    if saved.cursor:
        if since:
            note(f"hsmd: {saved.path} says to go on behind {saved.cursor}; --since is for the first start")
        return saved.cursor
    if saved.path is not None and not since:
        note(f"hsmd: no cursor is saved in {saved.path} yet: beginning with the oldest event that is kept")
    if since == NOW and saved.path is not None:
        since = session.ask(EventsRead(since=NOW, limit=1), EventPage).cursor
        saved.save(since)
    return since


def _deal_with(source: Iterator[Event], kinds: frozenset[str], take: Take, saved: CursorFile) -> None:
    """Have each event dealt with, one after the other, and save its cursor after that."""
    for event in source:
        if event.kind == POSITION:
            saved.save(event.id)
            continue
        if event.kind == MISSED:
            note(f"hsmd: {_missed(event.payload.get('reason', ''))}")
        if not kinds or event.kind in kinds or event.kind == MISSED:
            take(event)
        saved.save(event.id)


# --- sources ---


def _pages(session: Session, since: str) -> Iterator[EventPage]:
    """Pages up to the newest event. Ends at an empty page even if it announces more."""
    while True:
        page = session.ask(EventsRead(since=since, limit=MAX_PAGE), EventPage)
        yield page
        if not page.more or not page.events:
            return
        since = page.cursor


def _stored(session: Session, since: str) -> Iterator[Event]:
    for page in _pages(session, since):
        if page.missed:
            yield missed_event(page.begins, page.missed, datetime.now(UTC))
        yield from page.events
        yield position_event(page.cursor, datetime.now(UTC))


def _follow(session: Session, since: str) -> Iterator[Event]:
    told = ""

    def waiting(error: HsmdError) -> None:
        nonlocal told
        if error.text != told:
            note(f"hsmd: {error.text}; trying again")
        told = error.text

    for event in session.events(since, waiting):
        told = ""
        yield event


# --- output ---


def _show(session: Session, since: str, kinds: frozenset[str]) -> None:
    """What there is, the newest last, and on standard error how to go on from there."""
    shown, cursor, missed = 0, since, ""
    found: list[Event] = []
    for page in _pages(session, since):
        cursor, missed = page.cursor, missed or page.missed
        if page.missed and not session.output.as_json:
            note(f"hsmd: {_missed(page.missed)}")
        events = [event for event in page.events if not kinds or event.kind in kinds]
        shown += len(events)
        if session.output.as_json:
            found += events
        elif events or not (shown or page.more):
            rows = [_cells(event) for event in events]
            session.output.show(None, partial(table, HEADERS, rows, whole=3))
    if session.output.as_json:
        session.output.show({"events": found, "cursor": cursor, "missed": missed}, str)
    elif cursor:
        note(f"Show what happens from here on:  hsmd events --since {cursor} --follow")


def _print(session: Session, event: Event) -> None:
    if session.output.as_json:
        print(one_line(event), flush=True)
    else:
        print(escape("  ".join(_cells(event))), flush=True)


def one_line(event: Event) -> str:
    """The event as one line of ASCII JSON."""
    import json

    return json.dumps(msgspec.to_builtins(event, str_keys=True), ensure_ascii=True)


def _cells(event: Event) -> list[str]:
    details = [f"{name} {_short(value)}" for name, value in event.payload.items() if value not in ("", None)]
    return [event.id, when(event.at), event.kind, event.subject, ", ".join(details)]


def _short(value: object) -> str:
    """A value for people: times as elsewhere, lists without quotes, of a digest what is enough to recognise it."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value)
    if _TIME.fullmatch(text):
        return f"{text[:19].replace('T', ' ')}Z"
    return text[:16] if len(text) == 64 and text.isalnum() else text


def _missed(reason: str) -> str:
    return f"events are missing here: {_WHY.get(reason, reason)}"
