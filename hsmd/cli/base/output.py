"""What commands print: one JSON document for programs, tables and lines for people, and nothing a terminal would obey.

Strings that come from a daemon were typed by somebody else once. `escape` makes them harmless; everything for people goes
through it, and JSON is pure ASCII.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    People = RenderableType | str | tuple[RenderableType | str, ...]
    """What people get: tables, texts (whose lines are never folded, so that they can be copied), or several of these."""

_PIPE_WIDTH = 4_000
"""Columns when nobody looks: a table in a pipe is never folded, so that grep sees whole rows."""


def escape(text: str) -> str:
    """`text` with everything that is not a printable character (controls, bidi marks, line separators) made visible."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def when(moment: datetime | None) -> str:
    """A date for people, in UTC; empty for none."""
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def to_json(document: object) -> str:
    """`document` (structs, dataclasses, bytes as base64, dates as RFC 3339) as ASCII JSON."""
    import msgspec

    plain = msgspec.to_builtins(document, str_keys=True)
    return json.dumps(plain, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f")


class Output:
    """Where one command writes its answer: `as_json` decides for whom."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: object, people: Callable[[], People]) -> None:
        """The command's answer: the document for programs, what `people()` makes of it for people."""
        if self.as_json:
            print(to_json(document))
            return
        shown = people()
        for part in shown if isinstance(shown, tuple) else (shown,):
            if isinstance(part, str):
                print("\n".join(escape(line) for line in part.splitlines()))
            else:
                _print(part)

    def document(self, name: str, text: str) -> None:
        """A PEM document: as it is for people and pipes, as member `name` for programs."""
        print(
            to_json({name: text}) if self.as_json else "\n".join(escape(line) for line in text.splitlines())
        )

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Shows a spinner on a terminal for as long as the block runs."""
        if self.as_json or not sys.stderr.isatty():
            yield
            return
        with _console(sys.stderr).status(_plain(what)):
            yield


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """A table of escaped cells; a line that says so when there are no rows."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in rows:
        made.add_row(*(_plain(cell) for cell in row))
    return made if made.row_count else _plain("(none)")


def fields(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values below each other; pairs with an empty value are left out."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(name, _plain(value))
    return made


def _print(shown: RenderableType) -> None:
    """Prints without the blanks that pad cells to the right edge."""
    console = _console(sys.stdout)
    with console.capture() as captured:
        console.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def complain(line: str) -> None:
    """One line on standard error."""
    print(escape(line), file=sys.stderr)


def note(line: str) -> None:
    """A line for people beside the answer, on standard error, so that a pipe holds the answer alone."""
    print(escape(line), file=sys.stderr)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(escape(text))


def _console(stream: Any) -> Console:
    from rich.console import Console

    people_look = stream.isatty()
    return Console(file=stream, highlight=False, soft_wrap=False, width=None if people_look else _PIPE_WIDTH)
