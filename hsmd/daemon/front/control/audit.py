"""Handlers of control requests about the audit log: records, checkpoints, proofs, segments, discontinuities."""

from __future__ import annotations

import asyncio

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.readers import Reader, about, may_read
from hsmd.daemon.audit.view import LogView
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.operator_keys import keys_of
from hsmd.errors import AuditFailure, BadRequest, NotFound, ProofInvalid, ProtocolError
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.transparency.discontinuity import verify
from hsmd.transparency.note import Note

MAX_NOTES = 100
SCANS = 2
"""Searches for records at a time: each takes the interpreter's time from key operations."""


class AuditHandlers:
    """Reads the log for clients that may see it, proves records, and seals and declares breaks."""

    def __init__(
        self, *, audit: AuditLog, checkpointer: Checkpointer, log_guard: LogGuard, cache: SnapshotCache
    ) -> None:
        self._audit = audit
        self._checkpointer = checkpointer
        self._log_guard = log_guard
        self._cache = cache
        self._scans = asyncio.Semaphore(SCANS)

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.AuditRead: self.read,
            messages.AuditCheckpoint: self.checkpoint,
            messages.AuditProve: self.prove,
            messages.AuditAbout: self.about,
            messages.AuditStand: self.stand,
            messages.AuditDiscontinuity: self.discontinuity,
            messages.AuditSeal: self.seal,
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
        notes = self._log_guard.continuity.discontinuities[-MAX_NOTES:]
        return messages.SignedCheckpoint(newest.note, proof, newest.verifier_key, notes)

    async def prove(
        self, identity: Identity, request: messages.AuditProve, deadline: float
    ) -> messages.InclusionProof:
        newest = self._checkpointer.newest
        size = newest.checkpoint.size if newest else 0
        if newest is None or request.index >= size:
            raise NotFound(
                f"index: the newest checkpoint covers only the first {size} records; ask again after the next one"
            )
        proof = await self._checkpointer.inclusion(request.index, size)
        line = self._audit.read(request.index, 1)[0]
        with self._audit.view() as view:
            if not may_read(view, line.encode(), _reader(identity, self._cache.snapshot)):
                raise NotFound(f"index: there is no record {request.index} about you or your keys")
        return messages.InclusionProof(request.index, size, line, proof, newest.note)

    async def about(
        self, identity: Identity, request: messages.AuditAbout, deadline: float
    ) -> messages.AuditLines:
        reader = _reader(identity, self._cache.snapshot)
        async with self._scans:
            size, view = self._audit.size, self._audit.view()
            lines, following = await asyncio.to_thread(_about, view, size, request, reader)
        return messages.AuditLines(lines=lines, next=following, size=size)

    async def stand(
        self, identity: Identity, request: messages.AuditStand, deadline: float
    ) -> messages.AuditStanding:
        state, known = await self._checkpointer.standing(), self._log_guard.continuity.remembered
        return messages.AuditStanding(
            origin=state.origin,
            verifier_key=self._checkpointer.verifier_key,
            size=state.size,
            root=state.root,
            remembered_size=known.size if known else -1,
            remembered_root=known.root if known else b"",
            held=self._log_guard.held,
        )

    async def discontinuity(
        self, identity: Identity, request: messages.AuditDiscontinuity, deadline: float
    ) -> messages.Done:
        try:
            note = Note.parse(request.note)
            found = verify(note, await keys_of(self._cache, identity))
        except (ProtocolError, ProofInvalid) as problem:
            raise BadRequest(f"note: {problem.text}") from None
        await self._log_guard.declare(identity.client, found, note)
        return messages.Done()

    async def seal(
        self, identity: Identity, request: messages.AuditSeal, deadline: float
    ) -> messages.AuditSealed:
        return messages.AuditSealed(first=await self._log_guard.seal())


def _reader(identity: Identity, snapshot: Snapshot) -> Reader:
    everything = not identity.roles.isdisjoint(messages.AuditRead.roles)
    return Reader(identity.client, everything, snapshot.keys_owned_by(identity.client))


def _about(view: LogView, size: int, request: messages.AuditAbout, reader: Reader) -> tuple[list[str], int]:
    with view:
        try:
            return about(view, size, request.first, request.limit, reader)
        except OSError as problem:
            raise AuditFailure(detail=f"reading the audit log failed: {problem}") from problem
