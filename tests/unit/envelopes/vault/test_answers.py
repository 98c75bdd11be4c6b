"""Answers and confirmations: the lines of statements, in one form, and nothing about a record without a match."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

from hsmd.envelopes.vault import answers, confirmations
from hsmd.envelopes.vault.answers import MATCHES, Answer, Verdict
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.life_cycle import NO_LIMIT, Reason, State
from hsmd.errors import EnvelopeInvalid
from hsmd.transparency.note import Verifier, signed, to_be_signed
from hsmd.transparency.statement import Statement, signer_of, verify
from tests.support.mutations import single_byte_changes

AT = "2026-03-01T12:00:00Z"
KEY, NONCE = "ab" * 32, "cd" * 16
MISMATCH = Answer("web-1", "anna", KEY, NONCE, Verdict.MISMATCH, AT)
MATCH = replace(
    MISMATCH, verdict=Verdict.MATCH, record="web", version=3, state=State.ACTIVE,
    not_before="2026-01-01T00:00:00Z", not_after="2027-01-01T00:00:00Z", uses_left=7, usable=True,
)  # fmt: skip
CONFIRMATION = Confirmation("anna", KEY, 1, "olga", AT)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", fullmatch=True)
TIMES = st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat() + "Z")
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def any_answers(draw: st.DrawFn) -> Answer:
    verdict = draw(st.sampled_from(Verdict))
    nonce = draw(st.binary(min_size=16, max_size=32)).hex()
    question = (draw(NAMES), draw(NAMES), draw(DIGESTS), nonce, verdict, draw(TIMES))
    if verdict not in MATCHES:
        return Answer(*question)
    state = draw(st.sampled_from(State))
    return Answer(
        *question,
        record=draw(NAMES),
        version=draw(st.integers(1, 10**9)),
        state=state,
        reason=draw(st.sampled_from(Reason)),
        not_before=draw(st.just("") | TIMES),
        not_after=draw(st.just("") | TIMES),
        uses_left=draw(st.integers(NO_LIMIT, 10**9)),
        usable=draw(st.booleans()) and verdict is Verdict.MATCH and state is State.ACTIVE,
    )


@given(any_answers())
def test_an_answer_comes_back(answer: Answer) -> None:
    assert Answer.from_lines(answer.lines()) == answer


@given(any_answers())
def test_an_answer_fits_into_a_statement(answer: Answer) -> None:
    assert Answer.from_lines(Statement(answers.KIND, "fra-1", answer.lines()).lines) == answer


def test_an_answer_has_the_documented_lines() -> None:
    question = ("asker web-1", "owner anna", f"key {KEY}", f"nonce {NONCE}")
    assert MISMATCH.lines() == (*question, "verdict mismatch", f"at {AT}")
    assert MATCH.lines() == (
        *question,
        "verdict match",
        "record web",
        "version 3",
        "state active",
        "reason none",
        "not-before 2026-01-01T00:00:00Z",
        "not-after 2027-01-01T00:00:00Z",
        "uses-left 7",
        "usable yes",
        f"at {AT}",
    )
    bare = replace(MATCH, not_before="", not_after="", uses_left=NO_LIMIT, usable=False)
    assert bare.lines()[9:13] == ("not-before none", "not-after none", "uses-left none", "usable no")


def test_a_statement_of_an_answer_is_verified_and_read() -> None:
    key = Ed25519PrivateKey.generate()
    verifier = Verifier.from_public_key(signer_of("fra-1"), key.public_key())
    text = Statement(answers.KIND, "fra-1", MATCH.lines()).text()
    note = signed(text, verifier, [key.sign(to_be_signed(text))]).render()
    assert Answer.from_lines(verify(note, [verifier], answers.KIND).lines) == MATCH


def test_every_single_byte_change_is_refused_or_another_answer() -> None:
    """An answer is protected by the signature of the statement; its own form has one text for each answer."""
    for answer in (MATCH, MISMATCH):
        text = "\n".join(answer.lines()).encode()
        for altered in single_byte_changes(text):
            lines = altered.decode("latin-1").split("\n")
            try:
                found = Answer.from_lines(lines)
            except EnvelopeInvalid:
                continue
            assert found != answer
            assert list(found.lines()) == lines


@pytest.mark.parametrize("answer", [MATCH, MISMATCH], ids=["match", "mismatch"])
def test_other_lines_are_refused(answer: Answer) -> None:
    lines = list(answer.lines())
    others = [
        [],
        lines[1:],
        lines[:-1],
        [*lines, "more 1"],
        [*lines, ""],
        [lines[1], lines[0], *lines[2:]],
        [lines[0], *lines],
        ["asker", *lines[1:]],
        ["asker ", *lines[1:]],
        [lines[0].replace(" ", "  "), *lines[1:]],
        [f" {lines[0]}", *lines[1:]],
        [f"{lines[0]} ", *lines[1:]],
    ]
    for other in others:
        with pytest.raises(EnvelopeInvalid, match="answer"):
            Answer.from_lines(other)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("version", "0"), ("version", "03"), ("version", "+3"), ("version", "\u0663"), ("version", "9" * 5000), ("version", "1e3"),
        ("uses-left", "-1"), ("uses-left", "07"), ("uses-left", "1000000001"), ("usable", "true"), ("usable", "YES"),
        ("state", "ACTIVE"), ("state", "none"), ("reason", "other"), ("not-after", "never"), ("not-before", "2026-01-01"),
        ("verdict", "match-previous"), ("verdict", "mismatch"), ("verdict", "no-answer"), ("verdict", "maybe"),
        ("record", "none/1"), ("owner", "a b"), ("key", "ab"), ("nonce", "cd" * 15), ("nonce", "cd" * 33), ("nonce", "CD" * 16),
        ("at", "none"), ("state", "suspended"),
    ],
)  # fmt: skip
def test_other_values_are_refused(line: str, value: str) -> None:
    lines = [f"{line} {value}" if each.startswith(f"{line} ") else each for each in MATCH.lines()]
    assert lines != list(MATCH.lines())
    with pytest.raises(EnvelopeInvalid, match="answer"):
        Answer.from_lines(lines)


@pytest.mark.parametrize("verdict", [Verdict.MISMATCH, Verdict.NO_ANSWER])
@pytest.mark.parametrize(
    "fact",
    [
        {"record": "web"}, {"version": 1}, {"state": State.ACTIVE}, {"reason": Reason.EXPIRED}, {"not_before": AT},
        {"not_after": AT}, {"uses_left": 0}, {"usable": True},
    ],
)  # fmt: skip
def test_without_a_match_nothing_is_said_about_a_record(verdict: Verdict, fact: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeInvalid, match="nothing about a record"):
        replace(MISMATCH, verdict=verdict, **fact)


def test_the_answers_to_an_unknown_owner_and_to_a_missing_right_are_one() -> None:
    """They differ in nothing but what the asker sent."""
    lines = replace(MISMATCH, verdict=Verdict.NO_ANSWER).lines()
    assert [line.split(" ")[0] for line in lines] == ["asker", "owner", "key", "nonce", "verdict", "at"]


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict.MATCH_PREVIOUS}, {"state": State.SUSPENDED}, {"state": State.DEACTIVATED}, {"state": None},
    ],
)  # fmt: skip
def test_only_an_active_newest_version_is_usable(change: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeInvalid):
        replace(MATCH, **change)


# --- confirmations ---


@given(NAMES, DIGESTS, st.integers(1, 10**9), NAMES, TIMES)
def test_a_confirmation_comes_back(owner: str, digest: str, number: int, operator: str, at: str) -> None:
    made = Confirmation(owner, digest, number, operator, at)
    assert Confirmation.from_lines(Statement(confirmations.KIND, "fra-1", made.lines()).lines) == made


def test_a_confirmation_has_the_documented_lines() -> None:
    assert CONFIRMATION.lines() == (
        "owner anna",
        f"management-key {KEY}",
        "number 1",
        "operator olga",
        f"at {AT}",
    )


def test_other_confirmations_are_refused() -> None:
    lines = list(CONFIRMATION.lines())
    for other in (
        [],
        lines[:-1],
        [*lines, lines[-1]],
        lines[::-1],
        ["owner ", *lines[1:]],
        list(MISMATCH.lines()),
    ):
        with pytest.raises(EnvelopeInvalid, match="confirmation"):
            Confirmation.from_lines(other)
    for altered in single_byte_changes("\n".join(lines).encode()):
        changed = altered.decode("latin-1").split("\n")
        try:
            found = Confirmation.from_lines(changed)
        except EnvelopeInvalid:
            continue
        assert found != CONFIRMATION
        assert list(found.lines()) == changed
    for change in ({"owner": ""}, {"management_key": ""}, {"number": 0}, {"operator": "o p"}, {"at": ""}):
        with pytest.raises(EnvelopeInvalid, match="confirmation"):
            replace(CONFIRMATION, **change)  # type: ignore[arg-type]
