"""Handlers of control requests about statement keys, and the verifier keys that new clients pin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.operator_keys import keys_of
from hsmd.daemon.front.statements.keys import material, verifier_keys
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.transparency.checkpoint import daemon_of
from hsmd.transparency.endorsement import verify
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Note

MAX_DAEMONS = 200
"""Daemons for which verifier keys are listed: this one, and others whose logs the store knows."""
MAX_PINS = 40
"""Verifier keys in the answer to an enrolment, which has at most 16 KiB."""
MAX_NOTES = 100
CLOCK_SKEW = timedelta(minutes=5)
"""How far an operator's clock may be ahead: a note dated later would prevent later ones."""


class StatementHandlers:
    """Lists statement keys, and stores operators' endorsements of new ones."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        signer: StatementSigner,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._signer = signer
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {messages.StatementKeys: self.list, messages.StatementEndorse: self.endorse}

    async def list(
        self, identity: Identity, request: messages.StatementKeys, deadline: float
    ) -> messages.StatementKeyList:
        keys, daemons = self._signer.keys, await self._daemons()
        found = [("signs", keys.signing)] if keys.signing else []
        found += [("waits", key) for key in keys.waiting]
        found += [("former", key) for key in keys.former]
        return messages.StatementKeyList(
            [
                messages.StatementKey(key.name, state, material(key), verifier_keys(key, daemons))
                for state, key in found
            ],
            list(self._cache.snapshot.statement_endorsements[-MAX_NOTES:]),
        )

    async def endorse(
        self, identity: Identity, request: messages.StatementEndorse, deadline: float
    ) -> messages.Done:
        try:
            note = Note.parse(request.note)
            found = verify(note, await keys_of(self._cache, identity))
        except (ProtocolError, ProofInvalid) as problem:
            raise BadRequest(f"note: {problem.text}") from None
        if found.time > format_time(self._now() + CLOCK_SKEW):
            raise BadRequest("note: it is dated in the future; set your clock, and sign a new note")
        if found.new not in map(material, self._cache.snapshot.statement_keys):
            raise BadRequest(
                "note: the new key is no statement key of this daemon; `hsmd statement keys` lists them"
            )
        await self._cache.change(lambda tx: tx.statement_endorsements.add(found.time, note.render()))
        return messages.Done()

    async def to_pin(self) -> Sequence[str]:
        """The verifier keys that a new client pins: of the signing key for each daemon, then of former keys."""
        daemons = await self._daemons()
        return [line for key in self._signer.keys.to_pin for line in verifier_keys(key, daemons)][:MAX_PINS]

    async def _daemons(self) -> Sequence[str]:
        """The names of this daemon and of those that have shared the store."""
        origins = await self._cache.read(lambda tx: tx.audit_logs.origins())
        others = [name for name in map(daemon_of, origins) if name and name != self._signer.daemon]
        return [self._signer.daemon, *others][:MAX_DAEMONS]
