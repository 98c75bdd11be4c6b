"""Statements: signed notes in which a daemon states something; the first line names the kind, the second the daemon.

docs/protocol.md, section 9. The worker signs only texts that `hsmd.purposes.statement` accepts, with a key that has no other
purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.purposes.statement import DAEMON, KINDS, TITLE, fault_of
from hsmd.transparency.note import Note, Signature, Verifier

_SIGNER = "hsmd.statement/"


class MalformedStatement(ProtocolError):
    """Not a signed note with the text of a statement."""


class UnknownStatementKey(ProofInvalid):
    """None of the given keys has signed it."""


class AlteredStatement(ProofInvalid):
    """One of the given keys is named, but its signature is not over this text."""


class OtherStatement(ProofInvalid):
    """A valid statement, but of another kind than asked for."""


def signer_of(daemon_name: str) -> str:
    """The name under which a daemon signs statements."""
    return f"{_SIGNER}{daemon_name}"


@dataclass(frozen=True, slots=True)
class Statement:
    """What `daemon` (its name) states: `lines` follow the two first ones. Raises BadRequest for what cannot be stated."""

    kind: str
    daemon: str
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if any("\n" in line for line in self.lines):
            raise BadRequest("lines: a line of a statement has no line feed in it")
        if fault := fault_of(self.text().encode("utf-8", "surrogatepass")):
            raise BadRequest(f"statement: {fault}")

    def text(self) -> str:
        """The text of the note."""
        return "".join(f"{line}\n" for line in (f"{TITLE}{self.kind}", f"{DAEMON}{self.daemon}", *self.lines))


def parse_text(text: str) -> Statement:
    """The statement in the text of a note. Raises MalformedStatement, also for a kind that this release does not know."""
    if fault := fault_of(text.encode("utf-8", "surrogatepass")):
        raise MalformedStatement(f"not a statement: {fault}")
    first, second, *lines = text.removesuffix("\n").split("\n")
    return Statement(first.removeprefix(TITLE), second.removeprefix(DAEMON), tuple(lines))


def verify(note: str | Note, keys: Iterable[Verifier], kind: str = "") -> Statement:
    """The statement in a note signed by one of `keys`, under the name of the daemon in it; of this kind, if one is given.

    Raises MalformedStatement, UnknownStatementKey, AlteredStatement or OtherStatement. Signatures by other keys are ignored
    (C2SP signed-note), so a daemon's statement may carry those of witnesses.
    """
    parsed = _parsed(note)
    known = {(key.name, key.key_id): key for key in keys}
    mine = [known[signer] for one in parsed.signatures if (signer := (one.name, one.key_id)) in known]
    if not mine:
        raise UnknownStatementKey(
            f"signed by {_signers(parsed.signatures)}, and none of the keys given is that one"
        )
    for key in mine:
        try:
            key.verify(parsed)
        except ProofInvalid:
            raise AlteredStatement(
                f"the signature by {key.name} is not over this text: it was altered after it was signed"
            ) from None
    found = parse_text(parsed.text)
    if all(key.name != signer_of(found.daemon) for key in mine):
        raise AlteredStatement(f"it is signed by {mine[0].name}, but names the daemon {found.daemon}")
    if kind and found.kind != kind:
        raise OtherStatement(f"it is of the kind {found.kind}, not {kind}")
    return found


def check_kind(kind: str) -> None:
    """Raises BadRequest unless it is the name of a kind."""
    if kind not in KINDS:
        raise BadRequest(f"kind: {kind[:40]!r} is none of {', '.join(sorted(KINDS))}")


def _parsed(note: str | Note) -> Note:
    try:
        parsed = Note.parse(note) if isinstance(note, str) else note
    except ProtocolError as problem:
        raise MalformedStatement(problem.text) from None
    if not parsed.text.startswith(TITLE):
        raise MalformedStatement(f"not a statement: its first line does not begin with {TITLE!r}")
    return parsed


def _signers(signatures: Iterable[Signature]) -> str:
    return ", ".join(f"{one.name[:80]} with key {one.key_id.hex()}" for one in list(signatures)[:3])
