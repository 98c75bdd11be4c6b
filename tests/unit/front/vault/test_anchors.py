"""A statement key proves what operators confirmed only if the token signs with it, whatever the database says."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.daemon.front.vault.anchors import AGAIN_S, SOON_S, Anchors
from hsmd.errors import DeadlineExceeded, HsmdError, ProofInvalid, TokenFailure, Unavailable
from hsmd.transparency.note import Verifier, signed
from hsmd.transparency.statement import Statement, signer_of
from tests.support.vault import new_key, spki_of

KIND = "vault-confirmation"


@dataclass
class Signer:
    """The list of the database, and a token that has some of the keys."""

    listed: list[Any]
    held: list[Any]
    tried: list[bytes] = field(default_factory=list)
    error: Exception = field(default_factory=TokenFailure)

    @property
    def keys(self) -> Any:
        records = [
            SimpleNamespace(name=f"key-{n}", public_key=spki_of(key)) for n, key in enumerate(self.listed)
        ]
        return SimpleNamespace(to_pin=tuple(records))

    async def prove_held(self, key: Any) -> None:
        self.tried.append(key.public_key)
        if key.public_key not in map(spki_of, self.held):
            raise self.error


def note(key: ec.EllipticCurvePrivateKey, daemon: str = "east", kind: str = KIND) -> str:
    text = Statement(kind, daemon, ("owner owen",)).text()
    verifier = Verifier.from_spki(signer_of(daemon), spki_of(key))
    return signed(text, verifier, [key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))]).render()


def anchors(signer: Signer, clock: Any = lambda: 0.0) -> Anchors:
    return Anchors(signer, clock=clock)  # type: ignore[arg-type]


async def test_a_key_that_is_only_in_the_database_proves_nothing() -> None:
    held, planted = new_key(), new_key()
    signer = Signer([held, planted], [held])
    found = anchors(signer)
    with pytest.raises(ProofInvalid):
        found.read(note(held), KIND)
    await found.ready()
    assert found.read(note(held), KIND).lines == ("owner owen",)
    with pytest.raises(ProofInvalid):
        found.read(note(planted), KIND)


async def test_notes_of_all_daemons_of_the_store_count_and_other_kinds_do_not() -> None:
    key = new_key()
    found = anchors(Signer([key], [key]))
    await found.ready()
    assert found.read(note(key, "west"), KIND).daemon == "west"
    for bad in (note(key, kind="vault-answer"), note(key).replace("owen", "eve"), "no note", ""):
        with pytest.raises(ProofInvalid):
            found.read(bad, KIND)


async def test_each_key_is_tried_once_and_one_that_fails_again_after_a_while() -> None:
    now = 0.0
    good, away = new_key(), new_key()
    signer = Signer([good, away], [good])
    found = anchors(signer, lambda: now)
    for _ in range(3):
        await found.ready()
    assert signer.tried == [spki_of(good), spki_of(away)]
    signer.held.append(away)
    now += AGAIN_S
    await found.ready()
    await found.ready()
    assert signer.tried == [spki_of(good), spki_of(away), spki_of(away)]
    assert found.read(note(away), KIND)


@pytest.mark.parametrize("error", [Unavailable(), DeadlineExceeded()])
async def test_a_key_that_could_not_be_tried_says_nothing_against_its_notes(error: HsmdError) -> None:
    """As after a start, until the workers are ready: nothing is called altered, and the key is tried again at once."""
    now = 0.0
    key, planted = new_key(), new_key()
    signer = Signer([key], [], error=error)
    found = anchors(signer, lambda: now)
    await found.ready()
    with pytest.raises(Unavailable):
        found.read(note(key), KIND)
    for bad in (note(planted), note(key).replace("owen", "eve")):
        with pytest.raises(ProofInvalid):
            found.read(bad, KIND)
    signer.held.append(key)
    await found.ready()
    assert len(signer.tried) == 1
    now += SOON_S
    await found.ready()
    assert found.read(note(key), KIND)


async def test_a_key_that_could_not_be_tried_and_then_is_not_in_the_token_proves_nothing() -> None:
    now = 0.0
    key = new_key()
    signer = Signer([key], [], error=Unavailable())
    found = anchors(signer, lambda: now)
    await found.ready()
    signer.error = TokenFailure()
    now += SOON_S
    await found.ready()
    with pytest.raises(ProofInvalid):
        found.read(note(key), KIND)
