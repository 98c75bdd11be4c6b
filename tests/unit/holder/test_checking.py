"""Checks of public keys by others: an answer counts only if it is signed, fresh, and to the question."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.envelopes.vault.answers import Answer, Verdict
from hsmd.holder import checking, deposits
from hsmd.holder.brought_keys import of_private_key
from hsmd.holder.changes import Changes
from hsmd.holder.checking import AnswerRefused, Checked
from hsmd.holder.deposits import PrivateKeyInMemory, Terms
from hsmd.holder.proving import Prover
from hsmd.holder.seen import Seen
from hsmd.protocol.messages.vault_checks import VaultCheck, VaultChecked
from tests.support.fake_vault import CLIENT, FakeVault
from tests.support.holder import NOW

Ask = Callable[..., Checked]


@pytest.fixture
def key() -> PrivateKeyInMemory:
    return PrivateKeyInMemory(of_private_key(ec.generate_private_key(ec.SECP256R1())))


@pytest.fixture
def ask(vault: FakeVault, prover: Prover, seen: Seen, key: PrivateKeyInMemory) -> Ask:
    deposits.put(prover, seen, key, "www", Terms(max_uses=3), NOW)
    vault.allowed = [CLIENT]

    def asking(owner: str = "anna", spki: bytes = key.spki, **options: Any) -> Checked:
        options = {"asker": CLIENT, "clock": lambda: NOW, **options}
        return checking.check(vault, owner, spki, [vault.verifier], **options)

    return asking


def other_key() -> bytes:
    return of_private_key(ec.generate_private_key(ec.SECP256R1())).spki


def test_verdicts(ask: Ask, vault: FakeVault, prover: Prover, seen: Seen, key: PrivateKeyInMemory) -> None:
    found = ask()
    assert (found.verdict, found.usable, found.answer.record, found.answer.uses_left) == (
        Verdict.MATCH,
        True,
        "www",
        3,
    )
    assert ask(record="www").usable
    assert ask(spki=other_key()).verdict is Verdict.MISMATCH
    assert ask(record="mail").verdict is Verdict.MISMATCH
    assert ask(owner="nemo").verdict is Verdict.NO_ANSWER
    Changes(prover, seen).revoke("www", 1, "", NOW)
    assert (ask().verdict, ask().usable) == (Verdict.MATCH, False)
    deposits.put(
        prover,
        seen,
        PrivateKeyInMemory(of_private_key(ec.generate_private_key(ec.SECP256R1()))),
        "www",
        Terms(),
        NOW,
    )
    assert (ask().verdict, ask().usable) == (Verdict.MATCH_PREVIOUS, False)
    vault.allowed = []
    assert ask().verdict is Verdict.NO_ANSWER


def lie(vault: FakeVault, change: Callable[[Answer], Answer]) -> None:
    """A daemon that signs another answer."""

    def alter(request: Any, answer: Any) -> Any:
        return (
            VaultChecked(vault.note(change(vault.answer(request))))
            if isinstance(request, VaultCheck)
            else answer
        )

    vault.alter = alter


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": "00" * 32}, "nonce differs"),
        ({"owner": "bert"}, "owner differs"),
        ({"key": "00" * 32}, "key differs"),
        ({"asker": "other"}, "asker differs"),
        ({"record": "mail"}, "record differs"),
        ({"at": "2030-01-02T03:10:06Z"}, "more than 5 minutes from the time here; set the clock"),
        ({"at": "2030-01-02T02:58:04Z"}, "more than 5 minutes"),
    ],
)
def test_an_answer_to_another_question_is_refused(
    ask: Ask, vault: FakeVault, changes: dict[str, str], words: str
) -> None:
    import dataclasses

    lie(vault, lambda answer: dataclasses.replace(answer, **changes))  # type: ignore[arg-type]
    with pytest.raises(AnswerRefused, match=words):
        ask(record="www")


def test_an_altered_answer_is_refused(ask: Ask, vault: FakeVault) -> None:
    vault.alter = lambda _, answer: VaultChecked(answer.statement.replace("usable yes", "usable no"))
    with pytest.raises(AnswerRefused, match="was altered after it was signed; do not rely on it"):
        ask()


def test_an_answer_by_another_key_is_refused(ask: Ask, vault: FakeVault) -> None:
    asked = vault.verifier
    vault.signer = Ed25519PrivateKey.generate()
    with pytest.raises(AnswerRefused, match="none of the keys given is that one; fetch the keys"):
        checking.check(vault, "anna", other_key(), [asked], clock=lambda: NOW)


def test_a_statement_of_another_kind_is_no_answer(ask: Ask, vault: FakeVault) -> None:
    vault.alter = lambda request, _: VaultChecked(vault.note(vault.answer(request), kind="deposit-receipt"))
    with pytest.raises(AnswerRefused, match="of the kind deposit-receipt, not vault-answer"):
        ask()


def test_clocks_may_differ_by_some_minutes(ask: Ask) -> None:
    assert ask(clock=lambda: NOW + timedelta(minutes=5)).usable
    assert ask(clock=lambda: NOW - timedelta(minutes=5)).usable
