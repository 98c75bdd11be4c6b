"""A node takes the next anchor beside the old one, and drops the old one only when its own certificate is of the new key."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate
from hsmd.errors import Conflict
from hsmd.node.documents import Kept
from hsmd.node.generations import with_next_anchor, without_old_anchor
from hsmd.node.tls_keys import TlsKey
from tests.support.anchors import (
    COMMITTED,
    NEW,
    NEW_WITH_NEW,
    NEW_WITH_OLD,
    NOW,
    OLD,
    OTHER,
    OTHER_ROOT,
    UNCOMMITTED,
    certificate,
)

MOMENT = NOW.replace(tzinfo=UTC)
UPDATE = RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD).encode()
KEY = TlsKey(b"", b"a public key")


def kept(*anchors: x509.Certificate, issuer: object = OLD) -> Kept:
    """A node whose certificate is issued by this key."""
    leaf = certificate(OTHER, issuer, constraints=None)  # type: ignore[arg-type]
    return Kept(KEY, (leaf,), anchors)


def test_the_new_anchor_stands_beside_the_old_one_until_that_is_dropped() -> None:
    taken = with_next_anchor(kept(OTHER_ROOT, COMMITTED), UPDATE, MOMENT)
    assert taken.anchors == (OTHER_ROOT, COMMITTED, NEW_WITH_NEW)
    assert taken.update == UPDATE
    renewed = replace(taken, chain=kept(issuer=NEW).chain)
    retired = without_old_anchor(renewed)
    assert retired.anchors == (OTHER_ROOT, NEW_WITH_NEW), "of another CA nothing changes"
    assert retired.update == b""


def test_taking_it_twice_changes_nothing_and_a_third_generation_is_refused() -> None:
    taken = with_next_anchor(kept(COMMITTED), UPDATE, MOMENT)
    assert with_next_anchor(taken, UPDATE, MOMENT) is taken
    other = RootUpdate(certificate(NEW, NEW, ends=1000, serial=9), NEW_WITH_OLD).encode()
    with pytest.raises(Conflict, match="retire"):
        with_next_anchor(taken, other, MOMENT)


def test_without_a_commitment_the_key_is_one_that_was_approved() -> None:
    held = kept(UNCOMMITTED)
    spki = NEW_WITH_NEW.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UpdateRefused):
        with_next_anchor(held, UPDATE, MOMENT)
    with pytest.raises(UpdateRefused):
        with_next_anchor(held, UPDATE, MOMENT, b"\0" * 32)
    from hashlib import sha256

    assert NEW_WITH_NEW in with_next_anchor(held, UPDATE, MOMENT, sha256(spki).digest()).anchors


@pytest.mark.parametrize(
    "update", [b"", b"0", UPDATE[:-1], UPDATE + b"\0", RootUpdate(NEW_WITH_NEW).encode()]
)
def test_what_is_no_update_with_a_link_changes_nothing(update: bytes) -> None:
    with pytest.raises((CertificatesInvalid, UpdateRefused)):
        with_next_anchor(kept(COMMITTED), update, MOMENT)


def test_the_old_anchor_stays_while_the_node_needs_it() -> None:
    with pytest.raises(Conflict, match="no new anchor"):
        without_old_anchor(kept(COMMITTED))
    taken = with_next_anchor(kept(COMMITTED), UPDATE, MOMENT)
    with pytest.raises(Conflict, match="renew it from the new authority"):
        without_old_anchor(taken)


def test_a_new_anchor_that_was_exchanged_is_found_out() -> None:
    taken = with_next_anchor(kept(COMMITTED, issuer=NEW), UPDATE, MOMENT)
    for anchors in ((COMMITTED,), (COMMITTED, OTHER_ROOT)):
        with pytest.raises(UpdateRefused):
            without_old_anchor(replace(taken, anchors=anchors))


def test_a_new_anchor_whose_certificate_was_renewed_meanwhile_is_the_same_anchor() -> None:
    taken = with_next_anchor(kept(COMMITTED), UPDATE, MOMENT)
    renewed = certificate(NEW, NEW, ends=2000, serial=7)
    chain = kept(issuer=NEW).chain
    assert without_old_anchor(replace(taken, anchors=(COMMITTED, renewed), chain=chain)).anchors == (renewed,)
