"""A front that is taken over: what it can make an authority's key sign, and the keys that it can make for that.

The worker is driven over its own socket, as a front drives it: nothing stands between this test and the check beside the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc.worker_messages import Adopt, Candidates, Destroy, Generate, KeyDescription
from hsmd.errors import BadRequest, Conflict, PurposeMismatch, Refused
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.purposes import AuthorityConstraints, NameSet, Purpose
from tests.support.hostile_certificates import OTHER_KEY, Asked, constraints, named, spki_of
from tests.support.signatures import verify
from tests.support.tokens import RawWorker, generate, in_token

SCHEME = SignatureScheme.ECDSA_SHA256
LABEL = Purpose.X509_AUTHORITY.label


def make(control: RawWorker, name: str, found: AuthorityConstraints) -> KeyDescription:
    made: KeyDescription = control.control(
        Generate(name, "p-256", [LABEL], constraints={LABEL: dict(found.document())})
    )
    return made


@pytest.fixture(scope="module")
def authority(control: RawWorker) -> KeyDescription:
    """An authority's key in the token."""
    return make(control, "authority", constraints())


@pytest.fixture(scope="module")
def worker(token: SoftHsmToken, authority: KeyDescription) -> Iterator[RawWorker]:
    raw = RawWorker(token).ready()
    yield raw
    raw.close()


@pytest.fixture(scope="module")
def asked(authority: KeyDescription) -> Asked:
    return Asked(authority.public_key, SCHEME)


def sign(worker: RawWorker, key: KeyDescription, data: bytes, scheme: SignatureScheme = SCHEME) -> bytes:
    return worker.use(Purpose.X509_AUTHORITY, scheme, bytes.fromhex(key.key), data)


def test_an_authority_signs_what_it_issues(
    worker: RawWorker, authority: KeyDescription, asked: Asked
) -> None:
    for data in asked.honest().values():
        verify(authority.public_key, SCHEME, sign(worker, authority, data), data)


def test_a_front_gets_nothing_else_signed(worker: RawWorker, authority: KeyDescription, asked: Asked) -> None:
    """CA:true for a leaf, foreign names, ten years, another issuer, a link for another key, and the rest of the list."""
    started = worker.progress.started
    for what, data in asked.hostile():
        with pytest.raises(PurposeMismatch):
            sign(worker, authority, data)
            pytest.fail(what)
    for data in (asked.leaf(), asked.revocations()):
        with pytest.raises(PurposeMismatch):
            sign(worker, authority, data, SignatureScheme.ECDSA_SHA512)
    assert worker.progress.started == started, "the key was used"


def test_an_authority_signs_for_no_other_purpose(
    worker: RawWorker, authority: KeyDescription, asked: Asked
) -> None:
    for purpose in set(Purpose) - {Purpose.X509_AUTHORITY}:
        with pytest.raises(PurposeMismatch):
            worker.use(purpose, SCHEME, bytes.fromhex(authority.key), asked.leaf())


def test_no_other_key_signs_certificates(
    worker: RawWorker, keys: dict[str, KeyDescription], asked: Asked
) -> None:
    for name in ("ec", "message"):
        with pytest.raises(PurposeMismatch):
            sign(worker, keys[name], asked.leaf())


def test_a_key_gets_the_purpose_with_constraints_only(control: RawWorker) -> None:
    with pytest.raises(BadRequest, match="hsmd ca init"):
        generate(control, "unconstrained", "p-256", [LABEL])
    document = dict(constraints().document())
    for changed in ({**document, "later": 1}, {**document, "profiles": ["root"]}, {}):
        with pytest.raises(BadRequest):
            control.control(Generate("changed", "p-256", [LABEL], constraints={LABEL: changed}))
    with pytest.raises(BadRequest):
        control.control(Generate("both", "p-256", [LABEL, "tls-server"], constraints={LABEL: document}))


def test_a_key_that_a_front_makes_itself_is_linked_only_if_it_may_do_no_more(
    worker: RawWorker, control: RawWorker, authority: KeyDescription, asked: Asked
) -> None:
    """The front can have authorities made, with constraints of its choice; the old key does not certify them."""
    everything = constraints(
        name=named("Everything"), permitted=NameSet.of("permitted", ["*"]), excluded=NameSet(), next_key=""
    )
    wide = make(control, "wide", everything)
    narrow = make(control, "narrow", constraints(name=named("Narrow"), path_length=0, next_key=""))
    for made, name, signed in ((wide, "Everything", False), (narrow, "Narrow", True)):
        link = asked.root(subject=named(name), spki=made.public_key, path_length=0, next_key="", days=3_000)
        worker.use(Purpose.X509_AUTHORITY, SCHEME, bytes.fromhex(made.key), _own_request(made, name))
        if signed:
            verify(authority.public_key, SCHEME, sign(worker, authority, link), link)
        else:
            with pytest.raises(PurposeMismatch, match="permits more"):
                sign(worker, authority, link)


def _own_request(made: KeyDescription, name: str) -> bytes:
    """A use of the key, after which the worker knows it."""
    return Asked(made.public_key, SCHEME).request(name)


def make_reserve(control: RawWorker, limits: AuthorityConstraints) -> KeyDescription:
    made: KeyDescription = control.control(
        Generate("next", "p-256", [LABEL], constraints={LABEL: dict(limits.document())}, reserve=True)
    )
    return made


def adopt(control: RawWorker, key: str, found: AuthorityConstraints) -> KeyDescription:
    adopted: KeyDescription = control.control(
        Adopt("next", [LABEL], key=key, constraints={LABEL: dict(found.document())})
    )
    return adopted


def with_reserve(control: RawWorker, name: str, **changes: Any) -> tuple[KeyDescription, KeyDescription]:
    """An authority, and the reserve in the same token that its ceiling commits to."""
    limits = constraints(name=named(name), next_key="", **changes)
    reserve = make_reserve(control, limits)
    return make(control, name, msgspec.structs.replace(limits, next_key=reserve.key)), reserve


def asked_of(key: KeyDescription, name: str) -> Asked:
    """What is asked of an authority with this name."""
    asked = Asked(key.public_key, SCHEME)
    asked.issuer = asked.issuer.__class__.of_key(named(name), key.public_key, SCHEME)
    return asked


def test_the_next_key_is_not_served_until_it_is_adopted(worker: RawWorker, control: RawWorker) -> None:
    first, reserve = with_reserve(control, "First")
    with pytest.raises(Refused):
        sign(worker, reserve, Asked(reserve.public_key, SCHEME).request("Second"))
    link = asked_of(first, "First").root(
        subject=named("Second"), spki=reserve.public_key, path_length=0, next_key=""
    )
    verify(first.public_key, SCHEME, sign(worker, first, link), link)
    second = constraints(name=named("Second"), next_key="")
    with pytest.raises(BadRequest, match="hsmd ca init"):
        control.control(Adopt("second", [LABEL], key=reserve.key))
    adopted = adopt(control, reserve.key, second)
    assert adopted.key == reserve.key == hashlib.sha256(reserve.public_key).hexdigest()
    assert adopt(control, reserve.key, second).key == adopted.key
    with pytest.raises(Conflict, match="fixed otherwise"):
        adopt(control, reserve.key, constraints(name=named("Third")))
    verify(first.public_key, SCHEME, sign(worker, first, link), link)


def test_a_reserve_is_adopted_for_nothing_else(control: RawWorker, keys: dict[str, KeyDescription]) -> None:
    """The old authority links it, so who adopts it would have any digest certified, or certify any name."""
    _, reserve = with_reserve(control, "Reserving")
    for purposes in (["sign-digest"], ["sign-message"], ["tls-server"], ["checkpoint"]):
        with pytest.raises(BadRequest, match="reserved to replace"):
            control.control(Adopt("evil", purposes, key=reserve.key))
    for wider in (
        {"permitted": NameSet.of("permitted", ["*"]), "excluded": NameSet()},
        {"profiles": ["client", "server", "server-client"]},
        {"common_names": ["postgres"]},
        {"path_length": 2},
        {"leaf_s": 39 * 366 * 86_400},
    ):
        with pytest.raises(BadRequest, match="permit more"):
            adopt(control, reserve.key, constraints(**{"next_key": "", **wider}))
    no_authority = keys["ec"].key
    wide = make_reserve(control, constraints(next_key="", permitted=NameSet.of("permitted", ["*"])))
    for following, elsewhere in (
        ("ab" * 32, False), ("ab" * 32, True), (no_authority, False), (wide.key, False), (wide.key, True),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match="follows a reserve"):
            adopt(control, reserve.key, constraints(next_key=following, next_elsewhere=elsewhere))
    third = make_reserve(control, constraints(next_key=""))
    assert (
        adopt(control, reserve.key, constraints(name=named("After"), next_key=third.key)).key == reserve.key
    )


def test_a_reserve_is_made_with_limits_only(control: RawWorker) -> None:
    document = dict(constraints(next_key="").document())
    for purposes, given in (
        ([LABEL], {}),
        (["tls-server"], {}),
        ([LABEL], {LABEL: dict(constraints().document())}),
        ([LABEL], {LABEL: document | {"later": 1}}),
    ):
        with pytest.raises(BadRequest):
            control.control(Generate("next", "p-256", purposes, constraints=given, reserve=True))


def test_the_mark_of_a_reserve_stays_as_long_as_its_key(control: RawWorker) -> None:
    _, reserve = with_reserve(control, "Marked")
    adopt(control, reserve.key, constraints(name=named("Marked 2"), next_key=""))
    found = {each.key: each for each in control.control(Candidates(served=True)).keys}
    assert found[reserve.key].finding == "served"
    assert control.control(Destroy(reserve.key)).changed
    assert not control.control(Destroy(reserve.key)).changed
    kept = make_reserve(control, constraints(next_key=""))
    assert control.control(Destroy(kept.key)).changed
    shown = {each.key for each in control.control(Candidates(served=True)).keys}
    assert not shown & {kept.key, reserve.key}


def test_candidates_show_what_a_reserve_is_for(control: RawWorker) -> None:
    _, reserve = with_reserve(control, "Shown")
    (found,) = [each for each in control.control(Candidates()).keys if each.key == reserve.key]
    assert (found.finding, found.next_step.endswith(f"--adopt {reserve.key}")) == ("reserved", True)
    assert found.why == "it is reserved for Shown, whose key it replaces"


def test_a_key_that_was_kept_before_there_were_marks_is_not_linked(
    worker: RawWorker, control: RawWorker, token: SoftHsmToken
) -> None:
    first, reserve = with_reserve(control, "Old")
    in_token(token, _UNMARK.format(label=reserve.key))
    link = asked_of(first, "Old").root(
        subject=named("New"), spki=reserve.public_key, path_length=0, next_key=""
    )
    with pytest.raises(PurposeMismatch, match="does not know the next key as a reserve"):
        sign(worker, first, link)
    wide = make_adopted(control, reserve.key)
    worker.use(Purpose.X509_AUTHORITY, SCHEME, bytes.fromhex(wide.key), _own_request(wide, "New"))
    with pytest.raises(PurposeMismatch, match="permits more"):
        sign(worker, first, link)


_UNMARK = """
for found in session.get_objects({{A.CLASS: C.DATA, A.APPLICATION: "hsmd-reserve", A.LABEL: {label!r}}}):
    found.destroy()
show(1)
"""


def make_adopted(control: RawWorker, key: str) -> KeyDescription:
    return adopt(
        control,
        key,
        constraints(
            name=named("New"),
            permitted=NameSet.of("permitted", ["*"]),
            excluded=NameSet(),
            next_key="",
            path_length=0,
        ),
    )


def test_an_authority_that_commits_to_a_key_outside_is_not_linked(
    worker: RawWorker, control: RawWorker
) -> None:
    """Otherwise a front makes an authority that commits to a key of its own, which signs anything for years."""
    root = make(control, "above", constraints(name=named("Above"), path_length=2))
    outside = hashlib.sha256(spki_of(OTHER_KEY)).hexdigest()
    wide = make_reserve(control, constraints(next_key="", permitted=NameSet.of("permitted", ["*"])))
    _, reserve = with_reserve(control, "Below-0")
    for number, (following, elsewhere, signed) in enumerate(
        [
            (outside, False, False),
            (outside, True, False),
            (wide.key, False, False),
            (reserve.key, False, True),
        ]
    ):
        name = f"Below-{number + 1}"
        below = make(
            control, name, constraints(name=named(name), next_key=following, next_elsewhere=elsewhere)
        )
        worker.use(Purpose.X509_AUTHORITY, SCHEME, bytes.fromhex(below.key), _own_request(below, name))
        link = asked_of(root, "Above").root(
            subject=named(name), spki=below.public_key, path_length=1, next_key=""
        )
        if signed:
            verify(root.public_key, SCHEME, sign(worker, root, link), link)
            continue
        with pytest.raises(PurposeMismatch, match="commits to a key"):
            sign(worker, root, link)


def test_another_key_is_linked_in_no_way(worker: RawWorker, authority: KeyDescription, asked: Asked) -> None:
    for days in (1, 3_000):
        with pytest.raises(PurposeMismatch, match="does not commit"):
            sign(worker, authority, asked.link(OTHER_KEY, days=days))


_OF_A_LATER_RELEASE = """
import json
label = {label!r}
for found in session.get_objects({{A.CLASS: C.DATA, A.APPLICATION: {application!r}, A.LABEL: label}}):
    value = json.loads(found[A.VALUE])
    value["version"] = 3
    found.destroy()
    session.create_object({{
        A.CLASS: C.DATA, A.TOKEN: True, A.PRIVATE: True, A.MODIFIABLE: False, A.APPLICATION: {application!r},
        A.LABEL: label, A.VALUE: json.dumps(value).encode(),
    }})
show(1)
"""


def test_what_limits_a_key_in_a_later_release_is_neither_replaced_nor_removed(
    control: RawWorker, token: SoftHsmToken
) -> None:
    """Otherwise Adopt, or Destroy and then Adopt, gives the key of an authority the purpose sign-digest."""
    served = make(control, "served", constraints(next_key=""))
    kept = make_reserve(control, constraints(next_key=""))
    for key, application in ((served, "hsmd"), (kept, "hsmd-reserve")):
        in_token(token, _OF_A_LATER_RELEASE.format(label=key.key, application=application))
        for _ in range(2):
            with pytest.raises(Conflict):
                control.control(Adopt("evil", ["sign-digest"], key=key.key))
            with pytest.raises(Conflict):
                control.control(Destroy(key.key))
        assert key.key in {each.key for each in control.control(Candidates(served=True)).keys}
