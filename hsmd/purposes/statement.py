"""What a statement key signs: a text whose first line names its kind and whose second line names the daemon.

docs/protocol.md, section 9. No other format that hsmd or a TLS server signs begins with its first 18 bytes.
"""

from __future__ import annotations

import re

from hsmd.errors import PurposeMismatch

TITLE = "hsmd.statement/v1 "
"""Begin of the first line. A checkpoint begins with `hsmd/`, a note that an operator signs with `hsmd `."""
KINDS = frozenset({"vault-answer", "vault-confirmation", "deposit-receipt", "rollover-command"})
"""What a daemon states. The worker signs no statement of another kind."""
DAEMON = "daemon "
"""Begin of the second line, which is the same in every statement of a daemon."""
MAX_BYTES = 32_768
"""Of a whole statement: it fits into a signed note, of at most 65,536 characters, with its signatures."""
MAX_LINE_BYTES = 4_096

_KIND = re.compile(rb"hsmd\.statement/v1 ([a-z]+(?:-[a-z]+)*)\n")
_TEXT = re.compile(
    rb"hsmd\.statement/v1 [a-z]+(?:-[a-z]+)*\n"
    rb"daemon [A-Za-z0-9._-]{1,64}\n"
    rb"(?:[^\x00-\x1f\x7f]{1,4096}\n)*\Z"  # no line is empty: an empty line ends the text of a signed note
)
_CONTROLS = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C1 controls, line and paragraph separators, and what changes the direction of text (Unicode Bidi_Control)."""


def check_statement(data: bytes) -> None:
    """Pass if `data` is the text of a statement of a known kind, and nothing else. Raises PurposeMismatch."""
    if fault := fault_of(data):
        raise PurposeMismatch(f"not a statement: {fault}")


def fault_of(data: bytes) -> str:
    """What is wrong with the text of a statement; empty if nothing is."""
    kind = _KIND.match(data)
    if kind is None:
        return "its first line is not `hsmd.statement/v1 KIND`"
    if kind[1].decode() not in KINDS:
        return f"{kind[1].decode()[:40]!r} is not a kind; kinds are {', '.join(sorted(KINDS))}"
    if len(data) > MAX_BYTES:
        return f"it has more than {MAX_BYTES} bytes"
    if not _TEXT.match(data):
        return (
            "after its first line come `daemon NAME` and lines of 1 to "
            f"{MAX_LINE_BYTES} bytes without control characters, each with a line feed"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    return "a line has a character that controls others" if _CONTROLS.search(text) else ""
