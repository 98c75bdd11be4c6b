"""Text from a daemon reaches the terminal only as visible characters."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given, strategies as st

from hsmd import errors
from hsmd.cli.base.output import Output, escape, table, to_json
from tests.support.cli import Run
from tests.support.fake_control import FakeControl

HOSTILE = "a\x1b[31m\x1b]0;title\x07\r\n\u202e\u2028\x9b1m[bold]\x7f\udcff"


@given(st.text())
def test_escaped_text_is_printable_and_reversible(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    assert all(c in shown for c in text if c.isprintable())


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_is_printable_ascii_and_reversible(text: str) -> None:
    document = to_json({"x": text})
    assert all(c == "\n" or " " <= c <= "~" for c in document)
    assert json.loads(document) == {"x": text}


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "list"),
        ("key", "show", "k"),
        ("status",),
        ("client", "list"),
        ("grant", "explain", "a", "b", "c"),
        ("cert", "export", "k"),
    ],
    ids=" ".join,
)
def test_hostile_strings_are_escaped_in_every_kind_of_answer(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    from hsmd.protocol import messages
    from tests.support.fake_control import NOW

    hostile = HOSTILE.replace("\udcff", "")
    key = messages.KeyInfo(hostile, hostile, hostile, b"", [hostile], hostile, NOW, None, [hostile])
    answers = {
        "on_key_list": messages.KeyPage([key], False),
        "on_key_show": key,
        "on_whoami": messages.Identity(hostile, hostile, hostile, hostile),
        "on_client_list": messages.ClientPage([messages.ClientInfo(hostile, hostile, [hostile], NOW)], False),
        "on_grant_explain": messages.Explanation(True, hostile),
        "on_cert_export": messages.PemDocument(hostile),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(daemon, name, lambda _, answer=answer: answer)
    for ran in (run(*arguments), run(*arguments, "--json")):
        assert ran.code == 0, ran.err
        assert all(c == "\n" or c.isprintable() for c in ran.out)
    assert "[bold]" in run(*arguments).out, "markup is text"


def test_hostile_error_text_is_one_harmless_line(run: Run, daemon: FakeControl) -> None:
    daemon.fail_with = errors.NotFound("no key " + HOSTILE.replace("\udcff", ""))
    ran = run("key", "show", "k")
    assert ran.err.endswith("\n")
    assert ran.err[:-1].isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "folded"), [(80, 0), (50, 1), (30, 2)])
def test_columns_are_kept_whole_while_they_leave_room(
    monkeypatch: pytest.MonkeyPatch, width: int, folded: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    cells = ["x" * 20, "y" * 20, "long text " * 9]
    Output(as_json=False).show(None, lambda: table(("A", "B", "C"), [cells], whole=2))
    assert [cell in sys.stdout.getvalue() for cell in cells[:2]].count(False) == folded
    assert sys.stdout.getvalue().count("long") == 9, "nothing is cut off"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_tables_break_words_only_where_nothing_else_gives_way(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    words = ["no", "public", "key", "or", "certificate", "with", "its", "CKA_ID", "belongs", "to", "it"]
    row = (
        "0a" * 32,
        "label of a vendor's own management tool",
        "rsa-2048",
        "public-key-missing",
        " ".join(words),
    )
    Output(as_json=False).show(
        None, lambda: table(("CKA_ID", "CKA_LABEL", "TYPE", "FINDING", "WHY"), [row, ("", "", "?", "", "")])
    )
    lines = sys.stdout.getvalue().splitlines()
    assert max(map(len, lines)) <= width + len("\x1b[1m\x1b[0m") * 10, "headers are bold"
    assert max(map(len, lines[-2:])) <= width
    shown = sys.stdout.getvalue().split()
    if width >= 80:
        assert {*words, "rsa-2048", "public-key-missing", "management"} <= {*shown}, "no word is broken"
    assert sum(line.count("0a") for line in lines) >= 16, "nothing is cut off"


def test_spinner_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with Output(as_json=False).working("making a key") as tell:
            tell("3 of 50")
        assert ("making a key" in stream.getvalue()) is expected
        assert ("making a key: 3 of 50" in stream.getvalue()) is expected


@given(
    st.lists(
        st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=8
    )
)
def test_a_table_that_fits_looks_as_one_that_is_laid_out(rows: list[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    laid_out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("A", "LONGER", "C"):
        laid_out.add_column(header)
    for row in rows:
        laid_out.add_row(*(Text(escape(cell)) for cell in row))
    lines = []
    for shown in (table(("A", "LONGER", "C"), rows), laid_out):
        console = Console(file=io.StringIO(), width=4_000, highlight=False)
        console.print(shown)
        assert isinstance(console.file, io.StringIO)
        lines.append([line.rstrip() for line in console.file.getvalue().splitlines()])
    assert lines[0] == lines[1]
