"""Plans as canonical JSON: one form, and refused unless tasks, gates, dates and ways are what the topology demands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes import canonical_json
from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.rollover import approval, identities, plan_document
from hsmd.rollover.plan import Order
from hsmd.rollover.planner import plan
from hsmd.rollover.problems import PlanInvalid
from hsmd.transparency.declaration import OPERATOR
from hsmd.transparency.note import Verifier, signed, to_be_signed
from tests.support.rollover import identity, node, node_key, star, topology

SPLIT = plan(topology([*star(2), ("server", "db", False)], nodes={"client1": node("client1", "server")}))
BUNDLED = plan(SPLIT.topology, Order.BUNDLED)
ENCODED = plan_document.encode(SPLIT)
Change = Callable[[dict[str, Any]], object]


def changed(change: Change, encoded: bytes = ENCODED) -> bytes:
    """The plan with one thing changed, again in canonical form."""
    document = json.loads(encoded)
    change(document)
    return canonical_json.encode(document)


def task(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A task of a document."""
    return next(each for each in document["tasks"] if f"{each['kind']}:{each['node']}" == name)  # type: ignore[no-any-return]


def refusal(data: bytes) -> str:
    with pytest.raises(PlanInvalid) as refused:
        plan_document.decode(data)
    return refused.value.text


@pytest.mark.parametrize("found", [SPLIT, BUNDLED, plan(topology([], ["a"]))])
def test_a_plan_is_read_as_it_was_written(found: Any) -> None:
    encoded = plan_document.encode(found)
    assert plan_document.decode(encoded) == found
    assert re.fullmatch("[0-9a-f]{64}", plan_document.digest(found))


def test_a_plan_holds_the_identity_of_every_node_and_the_digest_of_its_topology() -> None:
    document = json.loads(ENCODED)
    assert document["topology"]["nodes"]["client2"]["identity"] == identity("client2")
    assert document["topology_digest"] == SPLIT.topology.digest


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: task(d, "C:server")["gates"]["clients-anchored"].pop(), "does not wait for A:client2"),
        (lambda d: task(d, "R:client1")["gates"].pop("servers-switched"), "does not wait for C:server"),
        (lambda d: task(d, "R:client1")["gates"]["servers-switched"].append("C:zz"), "waits for C:zz"),
        (lambda d: task(d, "C:server")["gates"]["clients-anchored"].reverse(), "is not in order"),
        (lambda d: task(d, "A:server").update(gates={"own-anchor": []}), "canonical form"),
        (lambda d: task(d, "A:server").update(gates={"own-anchor": ["R:server"]}), "does not demand"),
        (lambda d: task(d, "C:server").update(gates={"own_anchor": ["A:server"]}), "own_anchor: is not a member"),
        (lambda d: task(d, "C:server").update(link_until=["R:db"]), "link_until is not empty"),
        (lambda d: task(d, "C:server").update(stage=3), "belongs into stage 2"),
        (lambda d: task(d, "R:server").update(stage=4), "is in stage 4, and belongs into stage 3"),
        (lambda d: task(d, "A:server").update(not_after="2027-03-01T08:30:00Z"), "leaves less than"),
        (lambda d: task(d, "R:server").update(not_after="2027-04-01T08:00:01Z"), "after the deadline"),
        (lambda d: d["tasks"].pop(0), "A:client1 missing"),
        (lambda d: d["tasks"].append(d["tasks"][-1]), "one is there twice"),
        (lambda d: d["tasks"].reverse(), "not in order of stage"),
        (lambda d: d["nodes"].pop(), "one each in order of their names"),
        (lambda d: d["nodes"][0].update(order="bundled"), "C:client1 not demanded"),
        (lambda d: d["nodes"][0].update(relays=["client2"]), "relays to client1 are not a way"),
        (lambda d: d["nodes"][0].update(relays=[]), "relays to client1 are not a way"),
        (lambda d: d["nodes"][0].update(relays=["nowhere"]), "relays to client1 are not a way"),
        (lambda d: d.update(order="best"), "order: is 'best', and must be one of split, bundled, mixed"),
        (lambda d: d.update(order="bundled"), "client1 is not bundled, in a plan of the order bundled"),
        (lambda d: d.update(topology_digest="0" * 64), "topology_digest: is not that of the topology"),
        (lambda d: d["topology"]["edges"].pop(), "topology_digest"),
        (lambda d: d["topology"]["nodes"]["db"].update(identity="x"), "topology: nodes.db.identity: must be"),
        (lambda d: d.update(topology=[]), "topology: is missing"),
        (lambda d: d.update(extra=1), "extra: is not a member"),
        (lambda d: d.update(format="hsmd.rollover-plan/v9"), "its format is not"),
    ],
)  # fmt: skip
def test_what_the_topology_does_not_demand_is_refused(change: Change, expected: str) -> None:
    assert expected in refusal(changed(change))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: task(d, "AC:client1").update(link_until=[]), "link_until is not R:server"),
        (lambda d: d.update(order="split"), "has the order bundled, in a plan of the order split"),
        (lambda d: d["nodes"][2].update(order="bundled"), "C:db missing|AC:db missing"),
    ],
)
def test_bundles_are_refused_where_they_are_not_safe(change: Change, expected: str) -> None:
    assert re.search(expected, refusal(changed(change, plan_document.encode(BUNDLED))))


def _with_topology(encoded: bytes, **authority: object) -> bytes:
    """The plan with a changed authority and the digest that belongs to it."""
    from hsmd.rollover.topology_file import from_document

    def change(document: dict[str, Any]) -> None:
        document["topology"]["authority"].update(authority)
        document["topology_digest"] = from_document(document["topology"], "x").digest

    return changed(change, encoded)


def test_a_bundle_without_link_certificates_is_refused_on_reading() -> None:
    assert "there is no link certificate" in refusal(
        _with_topology(plan_document.encode(BUNDLED), link=False)
    )


def test_a_plan_that_ends_after_the_old_key_is_refused_on_reading() -> None:
    assert "not before authority.ends" in refusal(_with_topology(ENCODED, ends="2027-04-01T08:05:00Z"))


def test_other_forms_of_the_same_plan_are_refused() -> None:
    assert "canonical" in refusal(json.dumps(json.loads(ENCODED), indent=1).encode())
    assert refusal(ENCODED + b"\n")

    def reverse(document: dict[str, Any]) -> None:
        document["topology"]["edges"].reverse()

    assert "not in the canonical form" in refusal(changed(reverse))
    assert refusal(b"[" * 100_000)
    assert refusal(b"")


def test_the_length_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_document, "MAX_PLAN_BYTES", len(ENCODED) - 1)
    assert "more than" in refusal(ENCODED)


@given(st.integers(0, len(ENCODED) - 1), st.binary(min_size=0, max_size=3), st.integers(0, 3))
def test_mutated_plans_raise_only_their_error(at: int, inserted: bytes, removed: int) -> None:
    data = ENCODED[:at] + inserted + ENCODED[at + removed :]
    try:
        read = plan_document.decode(data)
    except PlanInvalid:
        return
    assert plan_document.encode(read) == data


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [each for key, inner in items for each in _places(inner, (*path, key))]


@given(
    st.sampled_from(_places(json.loads(ENCODED))),
    st.one_of(st.booleans(), st.integers(0, 9), st.text("aAC:", max_size=3), st.just([]), st.just({})),
)
def test_any_value_in_any_place_is_refused_or_means_the_same(path: tuple[Any, ...], value: object) -> None:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    try:
        read = plan_document.decode(changed(change))
    except PlanInvalid:
        return
    assert [task.gates for task in read.tasks] == [task.gates for task in SPLIT.tasks]


# --- approvals and identities ---

TIME = "2027-02-28T10:00:00.000000Z"


def test_an_operator_approves_a_plan_by_its_digest() -> None:
    found = approval.Approval(
        plan_document.digest(SPLIT), SPLIT.topology.digest, TIME, "reviewed in change 4711"
    )
    key = node_key("operator")
    note = approval.sign(found, key).render()
    verifier = Verifier.from_public_key(OPERATOR, key.public_key())
    assert approval.verify(note, [verifier]) == found
    other = Verifier.from_public_key(OPERATOR, node_key("other").public_key())
    with pytest.raises(ProofInvalid, match="not approved by an operator"):
        approval.verify(note, [other])
    with pytest.raises(ProofInvalid):
        approval.verify(note.replace(found.plan, "0" * 64), [verifier])


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_an_approval_names_digests(digest: str) -> None:
    with pytest.raises(BadRequest, match="plan: is not a digest"):
        approval.Approval(digest, "0" * 64, TIME, "r")
    with pytest.raises(ProtocolError):
        approval.parse_text(
            f"hsmd rollover-plan v1\nplan {digest}\ntopology {'0' * 64}\ntime {TIME}\nreason r\n"
        )


def test_the_notes_of_a_node_verify_under_its_name_and_its_identity() -> None:
    verifier = identities.verifier("web", identity("web"))
    text = "hsmd.x\n"
    note = signed(text, verifier, [node_key("web").sign(to_be_signed(text))])
    verifier.verify(note)
    with pytest.raises(ProofInvalid):
        identities.verifier("db", identity("db")).verify(note)
