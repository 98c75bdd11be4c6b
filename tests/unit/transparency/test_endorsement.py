"""Endorsements of statement keys: which offered keys follow from the pinned ones."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.purposes.statement import fault_of
from hsmd.transparency import declaration, discontinuity, endorsement
from hsmd.transparency.endorsement import Endorsement, accepted, material_of, parse_text, sign, verify
from hsmd.transparency.note import Verifier, signed
from hsmd.transparency.statement import signer_of

ALICE, MALLORY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
OPERATORS = [Verifier.from_public_key(declaration.OPERATOR, ALICE.public_key())]
TIME = "2026-01-02T03:04:05.000006Z"


def key(daemon: str = "fra-1") -> Verifier:
    return Verifier.from_public_key(signer_of(daemon), Ed25519PrivateKey.generate().public_key())


def under(name: str, verifier: Verifier) -> Verifier:
    return Verifier(signer_of(name), verifier.kind, verifier.key)


OLD, NEW, NEXT = key(), key(), key()
EC = Verifier.from_public_key(signer_of("fra-1"), ec.generate_private_key(ec.SECP256R1()).public_key())


def note(old: Verifier, new: Verifier, operator: Ed25519PrivateKey = ALICE) -> str:
    return sign(
        Endorsement(material_of(old), material_of(new), TIME, "the token was replaced"), operator
    ).render()


def test_a_key_is_named_as_at_the_end_of_its_verifier_key_line() -> None:
    for _ in range(20):  # base64 has plus signs, as the line has between its parts
        verifier = key()
        assert verifier.vkey == f"{verifier.name}+{verifier.key_id.hex()}+{material_of(verifier)}"


def test_a_pinned_key_is_accepted_and_another_is_not() -> None:
    assert accepted([OLD], [OLD, NEW], [], OPERATORS) == [OLD]
    assert accepted([], [OLD, NEW], [note(OLD, NEW)], OPERATORS) == []


def test_a_key_that_an_operator_endorsed_after_a_pinned_one_is_accepted() -> None:
    assert accepted([OLD], [NEW, OLD], [note(OLD, NEW)], OPERATORS) == [NEW, OLD]
    assert accepted([OLD], [EC], [note(OLD, EC)], OPERATORS) == [EC]
    assert accepted([OLD], [NEXT], [note(NEW, NEXT), note(OLD, NEW)], OPERATORS) == [NEXT]


def test_a_key_is_not_accepted_for_any_other_note() -> None:
    other = key()
    for notes in (
        [note(OLD, NEW, MALLORY)],
        [note(other, NEW)],
        [note(NEW, OLD)],
        [note(OLD, NEW).replace("replaced", "stolen")],
        [note(OLD, other).replace(material_of(other), material_of(NEW))],
        ["", "x\n", "\n\n\u2014 x y\n"],
    ):
        assert accepted([OLD], [NEW], notes, OPERATORS) == []
    assert accepted([OLD], [NEW], [note(OLD, NEW)], []) == []
    assert accepted([OLD], [NEW], [note(OLD, NEW)], OPERATORS) == [NEW]


def test_a_daemon_that_is_new_in_the_fleet_signs_with_the_same_key_under_its_own_name() -> None:
    assert accepted([OLD], [under("lon-1", OLD), under("lon-1", NEW)], [], OPERATORS) == [under("lon-1", OLD)]


def test_endorsements_in_a_circle_end() -> None:
    assert accepted([OLD], [OLD, NEW], [note(OLD, NEW), note(NEW, OLD)], OPERATORS) == [OLD, NEW]


def test_an_endorsement_is_neither_a_statement_nor_a_discontinuity() -> None:
    text = Endorsement(material_of(OLD), material_of(NEW), TIME, "why").text()
    assert parse_text(text).text() == text
    assert fault_of(text.encode())
    with pytest.raises(ProtocolError, match="not a discontinuity"):
        discontinuity.parse_text(text)
    declared = discontinuity.Discontinuity(
        "hsmd/fra-1", None, discontinuity.State(1, bytes(32)), _log_key(), TIME, "restored"
    )
    with pytest.raises(ProtocolError, match="not an endorsement"):
        verify(discontinuity.sign(declared, ALICE), OPERATORS)
    with pytest.raises(ProtocolError, match="not a discontinuity"):
        discontinuity.verify(note(OLD, NEW), OPERATORS)


def _log_key() -> str:
    return Verifier.from_public_key("hsmd/fra-1", ALICE.public_key()).vkey


def test_only_a_known_operator_endorses() -> None:
    assert verify(note(OLD, NEW), OPERATORS).new == material_of(NEW)
    with pytest.raises(ProofInvalid, match="operator whose key is known"):
        verify(note(OLD, NEW, MALLORY), OPERATORS)
    with pytest.raises(ProofInvalid):  # the key of a daemon is no operator's
        text = Endorsement(material_of(OLD), material_of(NEW), TIME, "x").text()
        verify(signed(text, NEW, [bytes(64)]), OPERATORS)


@pytest.mark.parametrize(
    "changes",
    [
        {"old": material_of(NEW)},
        {"old": ""},
        {"new": "AAAA"},
        {"new": material_of(NEW)[:-1]},
        {"new": NEW.vkey},
        {"time": "2026-01-02"},
        {"reason": ""},
        {"reason": "two\nlines"},
        {"reason": "x" * 201},
    ],
)
def test_values_that_cannot_be_declared(changes: dict[str, str]) -> None:
    values = {"old": material_of(OLD), "new": material_of(NEW), "time": TIME, "reason": "why", **changes}
    with pytest.raises(BadRequest):
        Endorsement(**values)


def test_only_the_canonical_text_is_an_endorsement() -> None:
    text = Endorsement(material_of(OLD), material_of(NEW), TIME, "why").text()
    for other in (
        text + "\n",
        text[:-1],
        text.replace("v1", "v2"),
        text.replace("old ", "old  "),
        text + "x y\n",
        "",
    ):
        with pytest.raises(ProtocolError, match="not an endorsement"):
            endorsement.parse_text(other)
