"""Replacement of a management key: every deposit is opened with the old key and sealed to the new one, on the owner's machine.

It can be interrupted at any point and called again: the daemon lists what is not wrapped anew. Until a version is, its old
envelope is there; the old key is retired only when none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

import msgspec

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.records import REWRAP, RecordStatement, follows
from hsmd.errors import BadRequest, Conflict, EnvelopeInvalid, ProofInvalid
from hsmd.holder.acquisitions import Acquired, EnvelopeAltered, checked_envelope
from hsmd.holder.changes import following, signed
from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.own_statements import KnownKeys, learn, listed_keys, verified
from hsmd.holder.proving import Daemon, Prover, prove_wrapping
from hsmd.holder.seen import OlderStatement, Seen, Subject
from hsmd.protocol.messages import (
    VaultRekeyBegin,
    VaultRekeyFinish,
    VaultRekeyList,
    VaultRekeyPage,
    VaultRekeyWrap,
    VaultSealed,
)

PAGE = 50
"""Versions that are asked for at a time."""
PASSES = 3
"""How often what another command has changed since it was listed is listed again."""


@dataclass
class Replaced:
    """What was done: how many were wrapped anew, and why others were not, by RECORD/VERSION."""

    wrapped: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the old key is retired."""
        return not self.failed


class Replacement:
    """From `old` to `new`, whose statement has the succession of `old`."""

    def __init__(self, daemon: Daemon, old: ManagementKey, new: ManagementKey, seen: Seen) -> None:
        """Raises EnvelopeInvalid or ProofInvalid if `new` is not the successor of `old`."""
        new.signed.verify_succession(old.statement)
        self._daemon = daemon
        self._old = old
        self._new = new
        self._prover = Prover(daemon, new)
        self._seen = seen
        self._keys = KnownKeys(new.statement)

    def run(self, clock: Callable[[], datetime], wrapped: Callable[[str], None] = lambda _: None) -> Replaced:
        """Begin or resume, wrap everything, and retire the old key if nothing failed. Raises HsmdError or OSError.

        `wrapped` is called with RECORD/VERSION after each.
        """
        done = Replaced()
        if not self._begin():
            return done
        for _ in range(PASSES):
            done.failed, overtaken = {}, False
            for item in self._left():
                name = _place(item)
                try:
                    self._wrap(item, clock())
                except (EnvelopeInvalid, ProofInvalid, Conflict) as error:
                    done.failed[name] = error.text
                    overtaken |= isinstance(error, OlderStatement | Conflict)
                    continue
                done.wrapped += 1
                wrapped(name)
            if not overtaken:
                break
        if done.finished:
            self._prover.ask(VaultRekeyFinish())
        return done

    def _begin(self) -> bool:
        """Begin, unless it has begun; return False if it has finished already."""
        listed = listed_keys(self._daemon)
        self._keys = KnownKeys(self._new.statement, listed)
        active = next((each for each in listed if each.state == "active"), None)
        if active is not None and active.text == self._new.signed.text:
            return any(each.state == "replaced" for each in listed)
        if active is None or active.text != self._old.signed.text:
            raise BadRequest(
                f"the active management key is not number {self._old.statement.number} of the old file; "
                "`hsmd vault keys` shows which is active: name its file with --management-key"
            )
        signed_new = self._new.signed
        request = VaultRekeyBegin(signed_new.text, signed_new.signature, signed_new.succession)
        request = msgspec.structs.replace(
            request, wrapping_proof=prove_wrapping(self._daemon, self._new, request)
        )
        Prover(self._daemon, self._old).ask(request)
        return True

    def _left(self) -> Iterator[VaultSealed]:
        """Each version that is not wrapped anew, once: a daemon that repeats itself cannot keep this in a loop."""
        after, met = "", set[str]()
        while True:
            page: VaultRekeyPage = self._prover.ask(VaultRekeyList(after, PAGE))
            fresh = [item for item in page.items if _place(item) not in met]
            met.update(map(_place, fresh))
            yield from fresh
            if not page.more or not fresh:
                return
            after = _place(page.items[-1])

    def _wrap(self, item: VaultSealed, now: datetime) -> None:
        subject = Subject(self._old.statement.owner, item.record, item.version)
        before = self._seen.before(subject.owner, subject.record, subject.version)
        older = verified(
            self._prover, self._seen, item.text, item.signature, subject, before, keys=self._keys
        )
        envelope = checked_envelope(self._old, older, item.envelope)
        content = Acquired(older, envelope, 0, 0, -1).open(self._old)
        encoded = self._sealed(older, content).encode()
        changes: dict[str, object] = {
            "management": self._new.statement.digest.hex(),
            "suite": self._new.suite,
            "envelope": sha256(encoded).hexdigest(),
        }
        newer = following(older, now, changes)
        follows(older, newer, REWRAP)
        text, signature = signed(self._prover, newer)
        self._prover.ask(VaultRekeyWrap(text, signature, encoded), item.record, item.version)
        learn(self._seen, newer)

    def _sealed(self, statement: RecordStatement, content: bytes) -> Envelope:
        """The envelope for the new key, which was opened once more with it. Raises EnvelopeAltered if that fails."""
        about = deposit_about(statement.owner, statement.record, statement.version)
        if statement.kind is Kind.SECRET_KEY:
            sealed = self._new.seal_secret_key(content, about)
        else:
            sealed = self._new.seal_private_key(content, about)
        if self._new.open(sealed) != content:
            raise EnvelopeAltered(
                "the new management key does not open what is sealed to it; make another one"
            )
        return sealed


def _place(item: VaultSealed) -> str:
    return f"{item.record}/{item.version}"
