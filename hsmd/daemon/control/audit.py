"""Control requests about the audit log: its records, its newest checkpoint, and proofs that the one covers the other."""

from __future__ import annotations

from hsmd.daemon.access.identity import Identity
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.control.desk import Handler
from hsmd.daemon.keys.checkpointer import Checkpointer
from hsmd.errors import NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Request


class AuditDesk:
    """Shows what was recorded; changes nothing."""

    def __init__(self, *, audit: AuditLog, checkpointer: Checkpointer) -> None:
        self._audit = audit
        self._checkpointer = checkpointer

    def handlers(self) -> dict[type[Request], Handler]:
        """Which method carries out which request."""
        return {
            messages.AuditRead: self.read,
            messages.AuditCheckpoint: self.checkpoint,
            messages.AuditProve: self.prove,
        }

    async def read(
        self, identity: Identity, request: messages.AuditRead, deadline: float
    ) -> messages.AuditPage:
        first = self._audit.position(request.first)
        lines = self._audit.read(first, request.limit)
        return messages.AuditPage(first=first, lines=lines, size=self._audit.size)

    async def checkpoint(
        self, identity: Identity, request: messages.AuditCheckpoint, deadline: float
    ) -> messages.SignedCheckpoint:
        newest = self._checkpointer.newest
        if newest is None:
            return messages.SignedCheckpoint(note="", proof=[], verifier_key="")
        proof: list[bytes] = []
        if request.since <= newest.checkpoint.size:
            proof = await self._checkpointer.consistency(request.since, newest.checkpoint.size)
        return messages.SignedCheckpoint(newest.note, proof, newest.verifier_key)

    async def prove(
        self, identity: Identity, request: messages.AuditProve, deadline: float
    ) -> messages.InclusionProof:
        newest = self._checkpointer.newest
        size = newest.checkpoint.size if newest else 0
        if newest is None or request.index >= size:
            raise NotFound(
                f"index: the newest checkpoint covers the first {size} records; ask again after the next one"
            )
        proof = await self._checkpointer.inclusion(request.index, size)
        line = self._audit.read(request.index, 1)[0]
        return messages.InclusionProof(request.index, size, line, proof, newest.note)
