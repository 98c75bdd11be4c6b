"""Output of commands: one JSON document, or tables and lines of text, without control sequences.

Strings from a daemon may have been chosen by an attacker: text passes through `escape`, and JSON is ASCII.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hsmd.log_lines import priority

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from hsmd.cli.base.errors import CommandError

    TextOutput = RenderableType | str | tuple[RenderableType | str, ...]
    """Text output: tables, strings (whose lines are never wrapped, so that they can be copied), or several of these."""

_PIPE_WIDTH = 4_000
"""Columns in a pipe: tables are not wrapped there, so that grep finds whole rows."""
_ROOM = 20
"""Columns of a terminal that a column which is not folded leaves for the others."""
_LEAST = 8
"""Columns of a terminal that a column keeps when others can give way."""


def escape(text: str) -> str:
    """`text` with non-printable characters (controls, bidi marks, line separators) as escape sequences."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def when(moment: datetime | None) -> str:
    """A date and time in UTC; empty for None."""
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def to_json(document: object) -> str:
    """`document` (structs, dataclasses, bytes as base64, dates as RFC 3339) as ASCII JSON."""
    import msgspec

    plain = msgspec.to_builtins(document, str_keys=True)
    return json.dumps(plain, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f")


class Output:
    """The output of one command, as JSON or as text."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, document: object, text: Callable[[], TextOutput], *, hints: str = "") -> None:
        """Print the result: `document` as JSON, or the return value of `text`; then, with text, `hints` for the user."""
        if self.as_json:
            print(to_json(document))
            return
        self._show_text(text)
        if hints:
            sys.stdout.flush()  # in a terminal, the hints come behind the result
            note(hints)

    def _show_text(self, text: Callable[[], TextOutput]) -> None:
        shown = text()
        for part in shown if isinstance(shown, tuple) else (shown,):
            if isinstance(part, str):
                print("\n".join(escape(line) for line in part.splitlines()))
            elif isinstance(part, _Rows):
                _print(part.header)
                print("\n".join(part.lines))
            else:
                _print(part)

    def document(self, name: str, text: str) -> None:
        """Print a PEM document: as it is, or with --json as member `name`."""
        print(
            to_json({name: text}) if self.as_json else "\n".join(escape(line) for line in text.splitlines())
        )

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner on a terminal while the block runs; what is yielded shows how far it is, behind `what`."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda _: None
            return
        with _console(sys.stderr).status(_plain(what)) as status:
            yield lambda done: status.update(_plain(f"{what}: {done}"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """A table of which no column is folded: to lay out 50,000 rows with rich takes 20 s, and there is nothing to lay out."""

    header: Text
    lines: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.header
        yield from map(_plain, self.lines)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, whole: int = 0) -> RenderableType:
    """A table of escaped cells; `(none)` without rows.

    Of the first `whole` columns, those that leave room for the others are not folded. No column breaks words while others can
    give way.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[escape(cell) for cell in row] for row in rows]
    if not cells:
        return Text("(none)")
    columns = [[header, *(row[at] for row in cells)] for at, header in enumerate(headers)]
    room = _console(sys.stdout).width
    needed = [max(map(_cells, column)) for column in columns]
    if sum(needed) + 2 * (len(needed) - 1) <= room:
        return _Rows(Text(_line(headers, needed), style="bold"), [_line(row, needed) for row in cells])
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header, width in zip(headers, _widths(columns, room, whole), strict=True):
        made.add_column(header, overflow="fold", width=width)
    for row in cells:
        made.add_row(*map(Text, row))
    return made


def table_with_lines(
    headers: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[Sequence[str]]
) -> TextOutput:
    """A table whose last column holds what is in `below`; in a terminal without room for it, on lines below each row."""
    console = _console(sys.stdout)
    rows = [[escape(cell) for cell in row] for row in rows]
    columns = [[header, *(row[at] for row in rows)] for at, header in enumerate(headers)]
    widths = [max(map(_cells, column)) for column in columns]
    if not rows or sum(widths) + 2 * (len(widths) - 1) <= console.width:
        return table(headers, rows)
    lines = [_line(headers[:-1], widths)]
    for row, further in zip(rows, below, strict=True):
        lines += [_line(row[:-1], widths), *(f"  {escape(each)}" for each in further)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - _cells(cell)) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join(padded).rstrip()


def _widths(columns: Sequence[Sequence[str]], room: int, whole: int) -> list[int]:
    """Widths of the columns of a table, with two blanks between them.

    Columns with lines of several words, or with words that are too long anyway, give way first, the widest of them. What is
    left goes to the columns that need the most lines.
    """
    needed = [max(map(_cells, column)) for column in columns]
    room -= 2 * (len(columns) - 1)
    if sum(needed) <= room:
        return needed
    words = [_longest_word(column) for column in columns]
    widths = [min(width, _ROOM) for width in needed]
    kept = set()
    left = room
    for at in range(whole):
        left -= needed[at]
        if left >= _ROOM:
            kept.add(at)
            widths[at] = needed[at]
    every = range(len(columns))
    foldable = [at for at in every if at not in kept]
    while sum(widths) > room and max(widths) > 1:
        first = [at for at in foldable if widths[at] > _LEAST and (at < whole or widths[at] != words[at])]
        widths[max(first or foldable or every, key=widths.__getitem__)] -= 1
    for _ in range(room - sum(widths)):
        widths[max(every, key=lambda at: needed[at] / widths[at])] += 1
    return widths


def _cells(text: str) -> int:
    """The columns of a terminal that `text` takes."""
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)


def _longest_word(texts: Iterable[str]) -> int:
    return max((_cells(word) for text in texts for word in text.split()), default=1)


def fields(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values, one pair per line; pairs with an empty value are omitted."""
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(name, _plain(value))
    return made


def _print(shown: RenderableType) -> None:
    """Print without trailing blanks."""
    console = _console(sys.stdout)
    with console.capture() as captured:
        console.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def complain(line: str) -> None:
    """Print an error on standard error."""
    print(f"{priority('error', sys.stderr)}{escape(line)}", file=sys.stderr)


def report(error: CommandError, *, as_json: bool) -> None:
    """Print an error: as a line on standard error, and with --json also as the document on standard output."""
    if as_json:
        print(to_json({"error": {"text": error.text, "next": error.next_step, "exit_code": int(error.code)}}))
    complain(error.line)


def note(line: str) -> None:
    """Print a hint of one or more lines on standard error, so that a pipe or file receives only the result."""
    print("\n".join(escape(each) for each in line.splitlines()), file=sys.stderr)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(escape(text))


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(
        file=stream, highlight=False, soft_wrap=False, width=None if stream.isatty() else _PIPE_WIDTH
    )
