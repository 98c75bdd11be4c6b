"""A front that is taken over: what it can make an authority's key sign, and the keys that it can make for that.

The worker is driven over its own socket, as a front drives it: nothing stands between this test and the check beside the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc.worker_messages import Adopt, Generate, KeyDescription
from hsmd.errors import BadRequest, Conflict, PurposeMismatch, Refused
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.purposes import AuthorityConstraints, NameSet, Purpose
from tests.support.hostile_certificates import OTHER_KEY, Asked, constraints, named
from tests.support.signatures import verify
from tests.support.tokens import RawWorker, generate

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


def test_the_next_key_is_not_served_until_it_is_adopted(
    worker: RawWorker, control: RawWorker, authority: KeyDescription
) -> None:
    reserve: KeyDescription = control.control(Generate("reserve", "p-256", [LABEL], reserve=True))
    first = make(control, "first", constraints(name=named("First"), next_key=reserve.key))
    asked = Asked(reserve.public_key, SCHEME)
    with pytest.raises(Refused):
        sign(worker, reserve, asked.request("Second"))
    link = Asked(first.public_key, SCHEME)
    link.issuer = link.issuer.__class__.of_key(named("First"), first.public_key, SCHEME)
    signed = link.root(subject=named("Second"), spki=reserve.public_key, path_length=0, next_key="")
    verify(first.public_key, SCHEME, sign(worker, first, signed), signed)
    second = constraints(name=named("Second"), next_key="")
    document = {LABEL: dict(second.document())}
    with pytest.raises(BadRequest, match="hsmd ca init"):
        control.control(Adopt("second", [LABEL], key=reserve.key))
    adopted: KeyDescription = control.control(Adopt("second", [LABEL], key=reserve.key, constraints=document))
    assert adopted.key == reserve.key == hashlib.sha256(reserve.public_key).hexdigest()
    again: KeyDescription = control.control(Adopt("second", [LABEL], key=reserve.key, constraints=document))
    assert again.key == adopted.key
    other = {LABEL: dict(constraints(name=named("Third")).document())}
    with pytest.raises(Conflict, match="fixed otherwise"):
        control.control(Adopt("second", [LABEL], key=reserve.key, constraints=other))


def test_another_key_is_linked_in_no_way(worker: RawWorker, authority: KeyDescription, asked: Asked) -> None:
    for days in (1, 3_000):
        with pytest.raises(PurposeMismatch, match="does not commit"):
            sign(worker, authority, asked.link(OTHER_KEY, days=days))
