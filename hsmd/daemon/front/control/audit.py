"""Handlers of control requests about the audit log: records, checkpoints, proofs, segments, discontinuities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.paging import text_of
from hsmd.daemon.audit.readers import BEGIN, END, Reader, Spans, about, may_read
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.operator_keys import keys_of
from hsmd.errors import AuditFailure, BadRequest, NotFound, ProofInvalid, ProtocolError
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role
from hsmd.system.client_threads import ClientThreads
from hsmd.transparency.discontinuity import verify
from hsmd.transparency.lines import format_time
from hsmd.transparency.note import Note

R = TypeVar("R")

MAX_NOTES = 100
MAX_READERS = 16
THREADS = 2
"""Reads of the log at a time. An archive that does not answer can keep these threads, and no others."""


class AuditHandlers:
    """Reads the log for clients that may see it, proves records, and seals and declares breaks."""

    def __init__(
        self, *, audit: AuditLog, checkpointer: Checkpointer, log_guard: LogGuard, cache: SnapshotCache
    ) -> None:
        self._audit = audit
        self._checkpointer = checkpointer
        self._log_guard = log_guard
        self._cache = cache
        self._threads = ClientThreads(THREADS)
        self._asking: dict[tuple[str, bool], asyncio.Task[Reader]] = {}
        """What is being found out: it takes a thread for half a second if the client owns 10,000 keys."""
        self._readers: dict[tuple[str, bool], tuple[int, Reader]] = {}
        """What clients may read, with the version of the store at which that was read: kept between the pages of one client."""

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
        lines = await self._threads.run(identity.client, lambda: self._audit.read(first, request.limit))
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
        reader = await self._reader(identity)
        line = await self._scan(identity, lambda files: _line(files, request.index, reader))
        proof = await self._checkpointer.inclusion(request.index, size)
        return messages.InclusionProof(request.index, size, line, proof, newest.note)

    async def about(
        self, identity: Identity, request: messages.AuditAbout, deadline: float
    ) -> messages.AuditLines:
        reader, size = await self._reader(identity), self._audit.size
        found = await self._scan(
            identity, lambda files: about(files, size, request.first, request.limit, reader)
        )
        return messages.AuditLines(
            lines=found.lines,
            next=found.following,
            size=size,
            away=[messages.AuditRange(*each) for each in found.away],
            undecided=found.undecided,
        )

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

    async def _reader(self, identity: Identity) -> Reader:
        if not identity.roles.isdisjoint(messages.AuditRead.roles):
            return Reader(identity.client, everything=True)
        asking = identity.client, Role.OWNER in identity.roles
        known = self._known(asking)
        if known is not None:
            return known
        finding = self._asking.get(asking)
        if finding is None:  # once for all requests of a client; it goes on when they are cancelled
            finding = self._asking[asking] = asyncio.get_running_loop().create_task(
                self._read_rights(*asking)
            )
            finding.add_done_callback(lambda done: self._found(asking, done))
        return await asyncio.shield(finding)

    def _found(self, asking: tuple[str, bool], done: asyncio.Task[Reader]) -> None:
        del self._asking[asking]
        if not done.cancelled():
            done.exception()  # retrieved, so that asyncio does not log it; a caller that still waits gets it

    def _known(self, asking: tuple[str, bool]) -> Reader | None:
        version, reader = self._readers.get(asking, (None, None))
        return reader if version == self._cache.snapshot.version else None

    async def _read_rights(self, client: str, owns: bool) -> Reader:
        version = self._cache.snapshot.version
        rights = await self._cache.read(lambda tx: tx.readers.rights_of(client, owns=owns))
        keys = [(each.digest.hex(), each.since, each.until) for each in rights.keys]
        names = [(each.name, each.since, each.until) for each in rights.names]
        reader = Reader(client, False, format_time(rights.since), _spans(keys), _spans(names))
        self._readers[client, owns] = version, reader
        if len(self._readers) > MAX_READERS:
            del self._readers[next(iter(self._readers))]
        return reader

    async def _scan(self, identity: Identity, read: Callable[[FilesAtHand], R]) -> R:
        """Search the log in a thread."""
        return await self._threads.run(identity.client, lambda: self._read(read))

    def _read(self, read: Callable[[FilesAtHand], R]) -> R:
        """In a thread: whatever is opened here is closed here, and a call that never begins opens nothing."""
        try:
            with self._audit.view() as view, FilesAtHand(view) as files:
                return read(files)
        except OSError as problem:
            raise AuditFailure(detail=f"reading the audit log failed: {problem}") from problem


def _spans(found: Iterable[tuple[str, datetime | None, datetime | None]]) -> dict[str, Spans]:
    spans: dict[str, list[tuple[str, str]]] = {}
    for name, since, until in found:
        span = format_time(since) if since else BEGIN, format_time(until) if until else END
        spans.setdefault(name, []).append(span)
    return {name: tuple(each) for name, each in spans.items()}


def _line(files: FilesAtHand, index: int, reader: Reader) -> str:
    try:
        line = files.line(index)
    except NotFound:
        if reader.everything:
            raise
        # Without the directory, which is for operators and auditors.
        raise NotFound(f"index: record {index} was archived to where the daemon cannot read it") from None
    if not may_read(files, line, reader):
        raise NotFound(f"index: there is no record {index} about you or your keys")
    return text_of(line)
