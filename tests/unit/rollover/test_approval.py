"""Approvals of plans: signed by an operator, and about exactly one plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hsmd.rollover import approval, plan_document
from hsmd.rollover.approval import Approval, ApprovalRefused
from hsmd.rollover.plan import Order
from hsmd.rollover.planner import plan
from hsmd.transparency import declaration
from hsmd.transparency.declaration import OPERATOR
from hsmd.transparency.note import Note, Verifier
from tests.support.rollover import chain, node_key, topology

PLAN = plan(topology(chain(3)))
DIGEST = plan_document.digest(PLAN)
APPROVAL = Approval(DIGEST, PLAN.topology.digest, "2027-02-28T10:00:00.000000Z", "reviewed in change 4711")


def verifier(name: str) -> Verifier:
    return Verifier.from_public_key(OPERATOR, node_key(name).public_key())


def signed(found: Approval = APPROVAL, *by: str) -> str:
    """The note with signatures of these operators, by default of ann."""
    notes = [approval.sign(found, node_key(name)) for name in by or ("ann",)]
    return Note(found.text(), tuple(line for note in notes for line in note.signatures)).render()


def refusal(note: str, *operators: str) -> str:
    with pytest.raises(ApprovalRefused) as refused:
        approval.check(note.encode(), [verifier(name) for name in operators or ("ann",)], PLAN, DIGEST)
    assert refused.value.advice
    return refused.value.text


def test_who_approved_a_plan_when_and_why() -> None:
    approved = approval.check(signed().encode(), [verifier("bob"), verifier("ann")], PLAN, DIGEST)
    assert (approved.approval, approved.operators) == (APPROVAL, (verifier("ann"),))


def test_several_operators_may_sign() -> None:
    note = signed(APPROVAL, "ann", "eve", "bob", "ann").encode()
    approved = approval.check(note, [verifier("bob"), verifier("ann")], PLAN, DIGEST)
    assert approved.operators == (verifier("ann"), verifier("bob"))


def test_an_approval_counts_for_its_plan_only() -> None:
    other = plan(PLAN.topology, Order.BUNDLED)
    found = replace(APPROVAL, plan=plan_document.digest(other))
    text = refusal(signed(found))
    assert f"approves another plan, whose digest is {found.plan}" in text and DIGEST in text


def test_an_approval_counts_for_its_topology_only() -> None:
    assert "another plan" in refusal(signed(replace(APPROVAL, topology="0" * 64)))


@pytest.mark.parametrize(
    ("old", "new"),
    [(DIGEST, "0" * 64), ("change 4711", "change 4712"), ("2027-02-28", "2027-03-28"), ("approves", "")],
)
def test_what_was_altered_does_not_count(old: str, new: str) -> None:
    note = signed()
    if old == "approves":  # the last byte of the signature
        bob = signed(APPROVAL, "bob").splitlines()[-1].split()[2]
        ann = note.splitlines()[-1].split()[2]
        altered = note.replace(ann, ann[:8] + bob[8:])
    else:
        altered = note.replace(old, new)
    assert altered != note
    assert refusal(altered) == "it was altered after it was signed"


def test_one_signature_of_several_that_is_wrong_is_one_too_many() -> None:
    wrong = signed(replace(APPROVAL, reason="other"), "bob").splitlines()[-1]
    assert "altered" in refusal(f"{signed()}{wrong}\n", "ann", "bob")


def test_only_operators_approve() -> None:
    assert refusal(signed(APPROVAL, "eve")) == "none of the operators' keys signed it"
    as_node = Verifier.from_public_key("node/ann", node_key("ann").public_key())
    with pytest.raises(ApprovalRefused, match="none of the operators' keys"):
        approval.check(signed().encode(), [as_node], PLAN, DIGEST)


@pytest.mark.parametrize(
    "note", ["", "hello\n", APPROVAL.text(), signed()[:-2], signed().replace("\n", "\r\n"), "\xff"]
)
def test_what_is_no_note_does_not_count(note: str) -> None:
    assert refusal(note).startswith("not a sign")


def test_another_declaration_of_an_operator_does_not_count() -> None:
    for text in (
        "hsmd discontinuity v1\nx y\n",
        APPROVAL.text().replace("reason ", "reason  ", 0) + "more x\n",
    ):
        note = declaration.sign(text, node_key("ann")).render()
        assert refusal(note).startswith("not an approval of a rollover plan")
