"""Checks by others: is a public key the one that an owner has deposited, and may it be relied on? For programs, in five lines:

    from hsmd.holder.checking import Checker

    checker = Checker.from_profile("/etc/hsmd/checker.toml")
    if not checker.check("anna", certificate_pem).usable:
        raise PermissionError

The profile is what `hsmd enroll` writes. The answer is a statement of the daemon; `Checked.statement` is to be kept as evidence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Protocol

from hsmd.client.endpoint import Endpoint, parse_address
from hsmd.client.statement_keys import StatementKeyPins, parse_pins
from hsmd.client.sync_client import Client
from hsmd.envelopes.vault import answers
from hsmd.envelopes.vault.answers import Answer, Verdict
from hsmd.envelopes.vault.fields import parse_time
from hsmd.errors import ConfigurationError, EnvelopeInvalid, ProofInvalid, ProtocolError
from hsmd.holder.public_key_forms import spki_of
from hsmd.protocol.messages import Request, StatementKeys, VaultCheck, VaultChecked
from hsmd.system import profile_file
from hsmd.transparency import statement as statements
from hsmd.transparency.declaration import operator_verifier
from hsmd.transparency.note import Verifier

NONCE_BYTES = 32
MAX_SKEW = timedelta(minutes=5)
"""How far the clocks of daemon and asker may be apart."""


class AnswerRefused(ProofInvalid):
    """The answer is not signed by an accepted key, or not to this question."""


class UnknownKey(AnswerRefused):
    """The answer is signed by a key that is not accepted; one that operators have endorsed since may be."""


class Asks(Protocol):
    """What is needed of a connection."""

    def control(self, request: Request, *, timeout_s: float = ...) -> VaultChecked:
        """The result of a request. Raises HsmdError."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that was verified."""

    answer: Answer
    daemon: str
    statement: str = field(repr=False)
    """The signed note."""

    @property
    def verdict(self) -> Verdict:
        """What the key is to the owner."""
        return self.answer.verdict

    @property
    def usable(self) -> bool:
        """Whether the key may be relied on: the newest version, active, in its term, within its uses."""
        return self.answer.usable


def check(
    daemon: Asks,
    owner: str,
    spki: bytes,
    keys: Sequence[Verifier],
    *,
    asker: str = "",
    record: str = "",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    timeout_s: float = 15.0,
) -> Checked:
    """Ask, and verify the answer: signed with one of `keys`, fresh, and to this question. Raises AnswerRefused, HsmdError.

    `asker`: the name under which the connection is logged in; not compared if empty.
    """
    nonce = os.urandom(NONCE_BYTES)
    given = daemon.control(VaultCheck(owner, spki, nonce, record), timeout_s=timeout_s)
    return verified(given.statement, keys, Question(owner, spki, nonce, asker, record), clock())


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked."""

    owner: str
    spki: bytes
    nonce: bytes
    asker: str = ""
    record: str = ""


def verified(note: str, keys: Sequence[Verifier], question: Question, now: datetime) -> Checked:
    """The answer in a signed note. Raises AnswerRefused, which names what differs."""
    try:
        found = statements.verify(note, keys, answers.KIND)
        answer = Answer.from_lines(found.lines)
    except statements.UnknownStatementKey as error:
        raise UnknownKey(
            f"the answer is {error.text}; fetch the keys that operators have endorsed: hsmd statement keys"
        ) from None
    except (ProofInvalid, ProtocolError, EnvelopeInvalid) as error:
        raise AnswerRefused(f"the answer is refused: {error.text}; do not rely on it") from None
    _check_question(answer, question)
    if abs(parse_time(answer.at) - now) > MAX_SKEW:
        raise AnswerRefused(
            f"the answer was given at {answer.at}, more than {MAX_SKEW.seconds // 60} minutes from the time here; set the clock"
        )
    return Checked(answer, found.daemon, note)


def _check_question(answer: Answer, question: Question) -> None:
    expected = {
        "nonce": (answer.nonce, question.nonce.hex()),
        "owner": (answer.owner, question.owner),
        "key": (answer.key, sha256(question.spki).hexdigest()),
        "asker": (answer.asker, question.asker or answer.asker),
        "record": (answer.record, question.record if question.record and answer.record else answer.record),
    }
    for member, (is_there, asked) in expected.items():
        if is_there != asked:
            raise AnswerRefused(f"the answer is to another question ({member} differs); do not rely on it")


class Checker:
    """Checks over one connection, which is made again whenever it is lost. Thread-safe; a context manager.

    `check` raises AnswerRefused, or HsmdError if there is no answer: then nothing is known, and the key must not be relied on.
    """

    def __init__(
        self, endpoint: Endpoint, statement_keys: Sequence[str], pins: StatementKeyPins | None = None
    ) -> None:
        """Connects. `pins` may accept further keys later. Raises HsmdError; ProtocolError for a malformed key line."""
        self._keys: Sequence[Verifier] = [Verifier.from_vkey(line) for line in statement_keys]
        self._pins = pins
        self._asker = endpoint.user
        self._client = Client.connect(endpoint)

    @classmethod
    def from_profile(cls, path: str | Path) -> Checker:
        """A checker that logs in as the profile says, and accepts the statement keys that it accepts.

        Raises ConfigurationError for an incomplete profile, OSError, or HsmdError if it cannot connect.
        """
        profile = profile_file.read(Path(path))
        if missing := profile.missing():
            raise ConfigurationError(str(path), [f"lacks what {', '.join(missing)} would give; enrol again"])
        pins = StatementKeyPins(
            profile_file.remembered_keys(Path(path)),
            parse_pins(profile.statement_keys),
            [operator_verifier(line) for line in profile.operator_keys],
        )
        host, port = parse_address(profile.daemon)
        endpoint = Endpoint(host, port, profile.host_keys, profile.user, Path(profile.identity or ""))
        return cls(endpoint, [key.vkey for key in pins.accepted()], pins)

    def check(self, owner: str, key: bytes | str, *, record: str = "", timeout_s: float = 5.0) -> Checked:
        """Whether `key` (any form of a public key: PEM, DER, certificate, OpenSSH line) is the owner's, and how it stands.

        A statement key that operators have endorsed since is fetched, if the checker was made from a profile.
        """
        spki = spki_of(key.encode() if isinstance(key, str) else key)
        try:
            return self._check(owner, spki, record, timeout_s)
        except UnknownKey:
            if self._pins is None:
                raise
            self._keys = self._learned(self._pins, timeout_s)
            return self._check(owner, spki, record, timeout_s)

    def _check(self, owner: str, spki: bytes, record: str, timeout_s: float) -> Checked:
        return check(
            self._client, owner, spki, self._keys, asker=self._asker, record=record, timeout_s=timeout_s
        )

    def _learned(self, pins: StatementKeyPins, timeout_s: float) -> Sequence[Verifier]:
        try:
            return pins.learn(self._client.control(StatementKeys(), timeout_s=timeout_s))
        except ConfigurationError as error:
            raise UnknownKey(
                f"the answer is signed by a new key, and it cannot be remembered ({error.text}); run `hsmd statement keys` as a "
                "user who can write there"
            ) from None

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
